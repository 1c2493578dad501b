"""What an AI worker makes of a model's answers and errors."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import InferenceError, RequestRefusedError, SpecError
from rhapsody.inference.worker_batches import Batches
from rhapsody.inference.worker_model import Generated, Loaded, ModelBrokenError, Prompt
from rhapsody.inference.worker_queue import Job, Kind
from tests.unit.inference.worker_models import Echo, Moody

if TYPE_CHECKING:
    from collections.abc import Sequence


def run(model: object, *prompts: str | Prompt, kind: Kind = Kind.GENERATE) -> dict[str, Any]:
    """Return the outcome for each prompt."""
    outcomes: dict[str, Any] = {}
    batches = Batches(Loaded(model), lambda found: outcomes.update({job.prompt.text: each for job, each in found}))
    loop = asyncio.get_running_loop()
    given = [each if isinstance(each, Prompt) else Prompt(each) for each in prompts]
    batches.run([Job(kind, prompt, loop.create_future()) for prompt in given])
    return outcomes


class Gives(Echo):
    def __init__(self, given: Any) -> None:  # noqa: ANN401
        self.given = given

    def generate(self, batch: Sequence[Prompt]) -> Any:  # noqa: ANN401
        return [Generated("1")] if batch[0].text == "1" else self.given

    def embed(self, batch: Sequence[Prompt]) -> Any:  # noqa: ANN401, ARG002
        return self.given


async def test_each_prompt_of_a_batch_gets_its_own_answer_and_its_own_length() -> None:
    found = run(Echo(), "a", "bcd")

    assert found == {"a": Generated("a", 1, 1), "bcd": Generated("bcd", 3, 3)}


async def test_a_prompt_that_the_model_fails_at_fails_alone_with_the_models_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Moody()
    texts = [f"prompt {number}" for number in range(15)]

    found = run(model, *texts[:9], "raise", *texts[9:])

    error = found.pop("raise")
    assert isinstance(error, InferenceError)
    assert (error.status, str(error)) == (500, "the model failed: RuntimeError: no convergence")
    assert {text: answer.text for text, answer in found.items()} == {text: text for text in texts}
    assert "in obey" in capsys.readouterr().err  # the traceback, for whoever wrote the model
    assert len(model.batches) <= 10  # halves, not one by one: 16, 8 8, 4 4, 2 2, 1 1, and the smallest prompt


async def test_a_prompt_that_the_model_refuses_is_refused_with_its_words() -> None:
    found = run(Moody(), "refuse", "fine")

    assert isinstance(found["refuse"], RequestRefusedError)
    assert (found["refuse"].status, str(found["refuse"])) == (400, "no molecule in the prompt")
    assert found["fine"].text == "fine"


async def test_a_model_that_fails_at_the_smallest_prompt_too_is_broken_once_the_prompt_is_told() -> None:
    outcomes: list[Any] = []
    model = Moody()
    batches = Batches(Loaded(model), outcomes.extend)
    future = asyncio.get_running_loop().create_future()

    with pytest.raises(ModelBrokenError, match="fails at the smallest prompt, too: RuntimeError: no convergence"):
        batches.run([Job(Kind.GENERATE, Prompt("break"), future)])

    [(_, error)] = outcomes
    assert isinstance(error, InferenceError)


async def test_a_model_that_wants_to_exit_is_not_asked_again() -> None:
    model = Moody()

    with pytest.raises(SystemExit):
        run(model, "exit", "fine")

    assert model.batches == [["exit", "fine"]]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "the model gave 0 answers to 1 prompts"),
        ([Generated("a"), Generated("b")], "the model gave 2 answers to 1 prompts"),
        (["a"], "the model gave str as an answer; it must be a Generated text"),
        ([Generated(b"a")], "the model gave Generated as an answer; it must be a Generated text"),  # type: ignore[arg-type]
        ([Generated("\ud800")], "the model's text cannot be sent: 'utf-8' codec"),
    ],
)
async def test_what_is_no_answer_is_an_error(given: list[Any], reason: str) -> None:
    found = run(Gives(given), "a")

    assert isinstance(found["a"], InferenceError)
    assert str(found["a"]).startswith(reason)


@pytest.mark.parametrize("vector", [[], [math.nan], [1.0, math.inf]])
async def test_a_vector_with_what_is_no_number_is_an_error(vector: list[float]) -> None:
    found = run(Gives([vector]), "a", kind=Kind.EMBED)

    assert isinstance(found["a"], InferenceError)
    assert "no finite number" in str(found["a"])


async def test_a_prompt_that_is_too_long_is_refused_before_the_model_sees_its_batch() -> None:
    model = Moody()
    model.max_model_len = 10

    found = run(model, "0123456789", Prompt("01234", max_tokens=6), Prompt("0123", max_tokens=6))

    assert isinstance(found["0123456789"], RequestRefusedError)
    assert "the prompt has 5 tokens and the answer may have 6" in str(found["01234"])
    assert model.batches == [["0123"]]


async def test_a_text_that_is_embedded_may_fill_the_whole_context() -> None:
    model = Echo()
    model.max_model_len = 3

    found = run(model, "abc", "abcd", kind=Kind.EMBED)

    assert found["abc"] == ([3.0, 97.0, 98.0, 99.0], 3)
    assert isinstance(found["abcd"], RequestRefusedError)


async def test_a_chat_becomes_a_text_by_the_models_template() -> None:
    outcomes: list[Any] = []
    prompt = Prompt("Hi", [{"role": "user", "content": "Hi"}])
    batches = Batches(Loaded(Echo()), outcomes.extend)

    batches.run([Job(Kind.GENERATE, prompt, asyncio.get_running_loop().create_future())])

    assert outcomes[0][1].text == "user: Hi"


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("a text", "the loader returned str, which has neither `generate` nor `embed`"),
        (type("Odd", (), {"generate": 1})(), "'generate' of the model Odd is int; it must be a method"),
    ],
)
def test_what_is_no_model_is_refused(model: object, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        Loaded(model)
