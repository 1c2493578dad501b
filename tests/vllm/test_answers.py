"""What a session, its AI tasks and the clients of its gateway get of the real vLLM."""

from __future__ import annotations

import urllib.error
import urllib.request
from asyncio import TaskGroup
from typing import TYPE_CHECKING

import openai
import pytest

from tests.eventually import eventually
from tests.leftovers import processes
from tests.vllm.serving import MODEL
from tests.vllm.serving_campaign import TOKENS
from tests.vllm.setting import require_own_answer
from tests.vllm.tiny_model import CONTEXT

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam

    from tests.vllm.serving import Serving
    from tests.vllm.setting import Setting

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hello"}]


def test_ai_tasks_are_answered_each_by_its_own_and_their_values_flow(serving: Serving) -> None:
    found = serving.found()

    assert [answer.startswith(f"nonce {number}") for number, answer in enumerate(found["answers"])] == [True] * 40
    assert found["tokens_out"] == [TOKENS] * 40
    assert found["length"] == len(found["answers"][0])
    assert found["counts"] == {"DONE": 42, "FAILED": 1}


def test_prompt_that_is_too_long_fails_its_task_with_the_servers_reason_and_no_answer(serving: Serving) -> None:
    state, response, error = serving.found()["too long"]

    assert (state, response) == ("FAILED", None)
    assert f"maximum context length is {CONTEXT} tokens" in error


def test_task_that_needs_the_service_finds_the_gateway(serving: Serving) -> None:
    found = serving.found()

    assert found["needing"] == found["url"] == serving.url


def test_key_is_in_no_command_line_and_in_no_log(serving: Serving) -> None:
    key = serving.key.encode()
    logs = [path for path in (serving.run_dir / "logs").iterdir() if path.is_file()]

    assert not [process for process in processes().values() if key in process.command]
    assert logs
    assert not [path for path in logs if key in path.read_bytes()]


@pytest.mark.parametrize("path", ["/v1/models", "/invocations", "/tokenize", "/metrics", "/docs"])
def test_replica_answers_nobody_who_does_not_know_its_key(path: str, serving: Serving) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{serving.ready()[0]}{path}", timeout=10)  # noqa: S310 - our own server


async def test_a_prompt_is_completed(at: Setting) -> None:
    answer = await at.complete("one nonce", 8)

    require_own_answer(answer, "one nonce", 8)
    assert len(answer.choices[0].text) > len("one nonce")


async def test_a_chat_is_answered_from_the_models_template(at: Setting) -> None:
    answer = await at.client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=6)

    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len("user: hello\nassistant:")


async def test_a_chat_is_streamed_token_by_token(at: Setting) -> None:
    stream = await at.client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=20, stream=True, stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    chunks = [chunk async for chunk in stream]

    assert len([chunk for chunk in chunks if chunk.choices]) >= 10
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


async def test_the_model_is_listed_under_the_name_that_it_is_served_by(at: Setting) -> None:
    through_gateway = [model.id async for model in at.client.models.list()]
    async with openai.AsyncOpenAI(base_url=f"{at.serving.ready()[0]}/v1", api_key=at.serving.key) as direct:
        of_server = [model.id async for model in direct.models.list()]

    assert through_gateway == of_server == [MODEL]


async def test_both_replicas_answer(at: Setting) -> None:
    urls = at.serving.ready()
    before = [at.metric(url, "vllm:request_success_total") for url in urls]

    async with TaskGroup() as group:
        for number in range(40):
            group.create_task(at.complete(f"prompt {number} of forty", 4))

    after = [at.metric(url, "vllm:request_success_total") for url in urls]
    done = [now - then for now, then in zip(after, before, strict=True)]
    assert sum(done) == 40
    assert min(done) >= 10


async def test_a_prompt_over_the_context_is_refused_in_the_servers_own_words(at: Setting) -> None:
    with pytest.raises(openai.BadRequestError, match=f"maximum context length is {CONTEXT} tokens"):
        await at.complete("x" * (CONTEXT + 1), 4)


async def test_a_client_with_a_wrong_token_is_refused_by_the_gateway(at: Setting) -> None:
    async with at.openai("another-token-than-the-right") as client:
        with pytest.raises(openai.AuthenticationError, match="wrong or missing API key"):
            await client.completions.create(model=MODEL, prompt="hello")


async def test_a_request_whose_client_goes_is_ended_on_the_server(at: Setting) -> None:
    before = at.total("vllm:generation_tokens_total")
    tokens = CONTEXT - 100

    async with TaskGroup() as group:
        asking = group.create_task(at.complete("a long one", tokens))
        await eventually(lambda: at.total("vllm:num_requests_running") == 1, within_s=30)
        asking.cancel()
    await eventually(lambda: at.total("vllm:num_requests_running") == 0, within_s=30)

    assert asking.cancelled()
    assert at.total("vllm:generation_tokens_total") - before < tokens
    await eventually(lambda: at.of_gateway("rhapsody_gateway_in_flight") == 0, within_s=30)
