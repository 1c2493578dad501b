"""An AI worker behind HTTP, where it differs from other model servers; what all do is in test_replica_contract.py."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientPayloadError
from aiohttp.test_utils import TestClient, TestServer

from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS
from rhapsody.inference.worker_http import WorkerServer, WorkerSettings
from rhapsody.inference.worker_model import Generated, Prompt
from rhapsody.inference.worker_thread import ModelThread
from tests.eventually import eventually
from tests.unit.inference.worker_models import HOLD, Echo, Moody, fifo, release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
    from pathlib import Path

    from aiohttp import web


@asynccontextmanager
async def served(model: object, **settings: Any) -> AsyncIterator[TestClient[web.Request, web.Application]]:  # noqa: ANN401
    thread = ModelThread(lambda: model, 8, 0.0)
    thread.start()
    server = WorkerServer(WorkerSettings("m", **settings), await thread.loaded, thread)
    try:
        async with TestClient(TestServer(server.app)) as client:
            yield client
    finally:
        await thread.close(5)


async def asked(model: object, path: str, **fields: object) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    async with served(model) as client, client.post(path, json={"model": "m", **fields}) as answer:
        return answer.status, await answer.json()


class Notes:
    """Keeps what it was asked."""

    reads_token_ids = True

    def __init__(self) -> None:
        self.asked: list[Prompt] = []

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        self.asked += batch
        return [Generated("said", 1, 2)] * len(batch)


class Embeds:
    """Does nothing else."""

    def embed(self, batch: Sequence[Prompt]) -> list[list[float]]:
        return [[0.5, float(len(prompt.text))] for prompt in batch]


async def test_the_model_gets_all_that_the_request_says() -> None:
    model = Notes()

    await asked(model, COMPLETIONS, prompt="Hi", max_tokens=5, temperature=0.5, stop=["."], user=None, n=1)

    assert model.asked == [Prompt("Hi", max_tokens=5, options={"temperature": 0.5, "stop": ["."]})]


async def test_a_completion_without_a_length_is_short_and_a_chat_as_long_as_the_model_likes() -> None:
    model = Notes()

    await asked(model, COMPLETIONS, prompt="Hi")
    await asked(model, CHAT, messages=[{"role": "user", "content": "Hi"}])

    assert [prompt.max_tokens for prompt in model.asked] == [16, None]


async def test_a_model_without_a_template_gets_the_messages_and_their_texts() -> None:
    model = Notes()
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts, "name": "me"}]

    await asked(model, CHAT, messages=messages, max_completion_tokens=3)

    [prompt] = model.asked
    assert prompt.text == "Be brief.\nWho?"
    assert prompt.messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who?", "name": "me"},
    ]
    assert prompt.max_tokens == 3


@pytest.mark.parametrize(("given", "got"), [([5, 6], [[5, 6]]), ([[5], [6, 7]], [[5], [6, 7]])])
async def test_numbers_of_tokens_reach_a_model_that_reads_them(given: list[Any], got: list[list[int]]) -> None:
    model = Notes()

    status, _ = await asked(model, COMPLETIONS, prompt=given)

    assert status == 200
    assert [prompt.token_ids for prompt in model.asked] == got


@pytest.mark.parametrize(
    ("path", "fields", "reason"),
    [
        (COMPLETIONS, {"prompt": [5, 6]}, "this model reads texts, no numbers of tokens"),
        (COMPLETIONS, {"prompt": []}, "prompt: must be a text, some texts, or numbers of tokens"),
        (COMPLETIONS, {"prompt": ["a", 5]}, "not of both kinds"),
        (COMPLETIONS, {"prompt": [[-5]]}, "numbers of tokens are 0 or more"),
        (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, "max_tokens"),
        (COMPLETIONS, {"prompt": "a", "n": 2}, "n`"),
        (COMPLETIONS, {"prompt": "a", "logprobs": 3}, "logprobs: an AI worker does not offer this"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [{"content": "a"}]}, "messages.0.role: must be a text"),
        (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages.0.content: must be a text"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "parts of type text only"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "tools: an AI worker does not offer"),
        (EMBEDDINGS, {"input": "a", "dimensions": 5}, "dimensions: this model's vectors have 2 numbers, not 5"),
        (EMBEDDINGS, {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_a_worker_does_not_offer_is_refused_with_the_reason(
    path: str, fields: Mapping[str, object], reason: str
) -> None:
    status, found = await asked(Both(), path, **fields)

    assert status == 400
    assert reason in found["error"]["message"]
    assert found["error"]["type"] == "invalid_request_error"


class Both(Echo, Embeds):
    """Generates, and embeds as the second says."""

    embed = Embeds.embed


async def test_a_model_that_only_embeds_does_not_generate_and_the_other_way_round() -> None:
    refused, text = await asked(Embeds(), COMPLETIONS, prompt="a")
    embedded, vectors = await asked(Embeds(), EMBEDDINGS, input=["a", "bc"])
    not_embedded, _ = await asked(Notes(), EMBEDDINGS, input="a")

    assert (refused, embedded, not_embedded) == (404, 200, 404)
    assert text["error"]["message"] == "m only embeds"
    assert [each["embedding"] for each in vectors["data"]] == [[0.5, 1.0], [0.5, 2.0]]


async def test_embeddings_come_as_base64_where_that_is_wanted() -> None:
    _, found = await asked(Embeds(), EMBEDDINGS, input="a", encoding_format="base64")

    assert found["data"][0]["embedding"] == "AAAAPwAAgD8="  # 0.5 and 1, as little-endian floats


async def test_a_model_without_streams_says_all_in_one_part() -> None:
    async with served(Notes()) as client:
        body = {"model": "m", "prompt": ["a", "b"], "stream": True, "stream_options": {"include_usage": True}}
        async with client.post(COMPLETIONS, json=body) as answer:
            events = [json.loads(line[6:]) for line in (await answer.text()).split("\n\n")[:-2]]

    told = [(each["index"], each["text"], each["finish_reason"]) for event in events for each in event["choices"]]
    assert told == [(0, "said", None), (0, "", "stop"), (1, "said", None), (1, "", "stop")]
    assert events[-1]["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}


async def test_a_stream_of_which_the_first_part_fails_is_an_error_and_no_stream() -> None:
    class Fails(Moody):
        def stream(self, prompt: Prompt) -> Iterator[Generated]:
            self.obey(prompt.text)
            yield Generated("never", 1)

    refused, text = await asked(Fails(), COMPLETIONS, prompt="refuse", stream=True)
    failed, _ = await asked(Fails(), COMPLETIONS, prompt="raise", stream=True)

    assert (refused, failed) == (400, 500)
    assert text["error"]["message"] == "no molecule in the prompt"


async def test_a_stream_that_fails_on_its_way_says_so_and_ends_too_early() -> None:
    class Fails(Echo):
        def stream(self, prompt: Prompt) -> Iterator[Generated]:
            yield Generated(prompt.text, 1)
            raise RuntimeError("no convergence")

    async with served(Fails()) as client:
        body = {"model": "m", "prompt": "a", "stream": True}
        async with client.post(COMPLETIONS, json=body) as answer:
            first = await answer.content.readuntil(b"\n\n")
            second = await answer.content.readuntil(b"\n\n")
            with pytest.raises(ClientPayloadError):
                await answer.read()

    assert b'"text":"a"' in first
    assert b"the model failed: RuntimeError: no convergence" in second


async def test_a_request_with_one_prompt_that_fails_fails_as_a_whole() -> None:
    status, found = await asked(Moody(), COMPLETIONS, prompt=["fine", "raise", "fine, too"])

    assert status == 500
    assert found["error"]["message"] == "the model failed: RuntimeError: no convergence"
    assert "choices" not in found


async def test_a_request_whose_client_goes_away_as_it_waits_never_reaches_the_model(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    model = Moody()
    async with served(model) as client, asyncio.TaskGroup() as group:
        first = group.create_task(_post(client, f"{HOLD}{path}"))
        await eventually(lambda: model.batches)
        gone, stays = (group.create_task(_post(client, text)) for text in ("gone", "stays"))
        await _until_waiting(client, 2)
        gone.cancel()
        await _until_waiting(client, 1)
        await release(path)

    assert (first.result(), stays.result()) == (200, 200)
    assert model.batches[1:] == [["stays"]]


async def _post(client: TestClient[web.Request, web.Application], prompt: str) -> int:
    async with client.post(COMPLETIONS, json={"model": "m", "prompt": prompt}) as answer:
        return answer.status


async def _until_waiting(client: TestClient[web.Request, web.Application], count: int) -> None:
    async with asyncio.timeout(10):
        while True:
            async with client.get("/metrics") as answer:
                if f'num_requests_waiting{{model_name="m"}} {count}\n' in await answer.text():
                    return


async def test_a_broken_model_is_seen_in_the_health() -> None:
    async with served(Moody()) as client:
        async with client.get("/health") as before:
            assert before.status == 200
        async with client.post(COMPLETIONS, json={"model": "m", "prompt": "exit"}) as answer:
            assert answer.status == 503
        async with client.get("/health") as after:
            found = await after.json()

    assert after.status == 503
    assert found["error"]["message"] == "the model has ended: SystemExit: 7"


async def test_metrics_say_what_the_model_has_done() -> None:
    async with served(Moody()) as client:
        for prompt in ("abc", "raise", "refuse"):
            async with client.post(COMPLETIONS, json={"model": "m", "prompt": prompt}):
                pass
        async with client.get("/metrics") as answer:
            text = await answer.text()

    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    named = {name.removeprefix("rhapsody_worker_").removesuffix('{model_name="m"}'): figures[name] for name in figures}
    assert (named["prompts_total"], named["failed_total"], named["refused_total"]) == ("1", "1", "1")
    assert (named["prompt_tokens_total"], named["generation_tokens_total"]) == ("3", "3")
    assert (named["num_requests_running"], named["num_requests_waiting"]) == ("0", "0")
    assert float(named["busy_seconds_total"]) > 0


async def test_a_request_over_the_limit_and_a_path_that_is_not_there_are_refused_in_openais_shape() -> None:
    async with served(Echo(), body_limit=100) as client:
        async with client.post(COMPLETIONS, json={"model": "m", "prompt": "a" * 200}) as large:
            too_large = await large.json()
        async with client.get("/v1/nothing") as nowhere:
            not_there = await nowhere.json()

    assert (large.status, nowhere.status) == (413, 404)
    assert "too large" in too_large["error"]["message"]
    assert not_there["error"]["message"]
