"""What every kind of model server does, so that router, gateway and tasks need not know which one they talk to."""

from __future__ import annotations

import asyncio
import signal
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import openai
import pytest

from rhapsody.inference.breaker import BreakerSettings
from rhapsody.inference.request import COMPLETIONS, Request
from rhapsody.inference.router import Limits, Router
from tests.eventually import eventually
from tests.unit.inference.replica_kinds import KINDS, Running, busy, running, tokens_made
from tests.unit.inference.worker_models import refuses

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

LIMITS = Limits(per_replica=8, tick_s=0.02, breaker=BreakerSettings(first_pause_s=0.1))


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that all tests of a kind share, as long as they leave it as it was."""
    with running(request.param, tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(params=KINDS)
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    """One of a test's own."""
    with running(request.param, tmp_path / "r1") as found:
        yield found


@pytest.fixture
def another(own: Running, tmp_path: Path) -> Iterator[Running]:
    """A second one of the same kind."""
    with running(own.kind, tmp_path / "r2") as found:
        yield found


@asynccontextmanager
async def client_of(server: Running, key: str = "") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key or server.key, max_retries=0) as client:
        yield client


@asynccontextmanager
async def plain(server: Running) -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"Authorization": f"Bearer {server.key}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as http:
        yield http


async def metrics(http: aiohttp.ClientSession) -> str:
    async with http.get("/metrics") as answer:
        return await answer.text()


async def busy_until(http: aiohttp.ClientSession, count: int) -> None:
    """Return once a server has so many requests."""
    async with asyncio.timeout(30):
        while busy(await metrics(http)) != count:
            pass


def prompt() -> str:
    return f"nonce {uuid.uuid4().hex}"


async def test_a_completion_carries_what_belongs_to_its_prompt(server: Running) -> None:
    asked = prompt()

    async with client_of(server) as client:
        answer = await client.completions.create(model=server.kind.model, prompt=asked, max_tokens=64)

    assert server.kind.mark(asked) in answer.choices[0].text
    assert answer.model == server.kind.model
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0
    assert 0 < answer.usage.completion_tokens <= 64


async def test_an_answer_is_no_longer_than_was_asked_for(server: Running) -> None:
    async with client_of(server) as client:
        answer = await client.completions.create(model=server.kind.model, prompt="one two three four", max_tokens=2)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 2


async def test_several_prompts_get_an_answer_each_in_their_order(server: Running) -> None:
    asked = [prompt() for _ in range(5)]

    async with client_of(server) as client:
        answer = await client.completions.create(model=server.kind.model, prompt=asked, max_tokens=64)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3, 4]
    for text, choice in zip(asked, answer.choices, strict=True):
        assert server.kind.mark(text) in choice.text


async def test_a_chat_is_answered_by_the_assistant(server: Running) -> None:
    asked = prompt()

    async with client_of(server) as client:
        answer = await client.chat.completions.create(
            model=server.kind.model, messages=[{"role": "user", "content": asked}], max_tokens=64
        )

    message = answer.choices[0].message
    assert message.role == "assistant"
    assert server.kind.mark(asked) in (message.content or "")


async def test_a_streamed_completion_is_the_whole_one_in_parts_with_the_usage_at_the_end(server: Running) -> None:
    asked = prompt()

    async with client_of(server) as client:
        stream = await client.completions.create(
            model=server.kind.model,
            prompt=asked,
            max_tokens=64,
            stream=True,
            stream_options={"include_usage": True},
        )
        *parts, last = [part async for part in stream]
        whole = await client.completions.create(model=server.kind.model, prompt=asked, max_tokens=64)

    assert len(parts) > 1
    assert "".join(part.choices[0].text for part in parts) == whole.choices[0].text
    assert [part.choices[0].finish_reason for part in parts][-1] == whole.choices[0].finish_reason
    assert last.choices == []
    assert last.usage == whole.usage


async def test_a_streamed_chat_is_by_the_assistant_and_whole(server: Running) -> None:
    asked = prompt()

    async with client_of(server) as client:
        stream = await client.chat.completions.create(
            model=server.kind.model, messages=[{"role": "user", "content": asked}], max_tokens=64, stream=True
        )
        deltas = [part.choices[0].delta async for part in stream]

    assert [delta.role for delta in deltas if delta.role] == ["assistant"]
    assert server.kind.mark(asked) in "".join(delta.content or "" for delta in deltas)


async def test_embeddings_depend_on_their_text_alone(server: Running) -> None:
    async with client_of(server) as client:
        answer = await client.embeddings.create(model=server.kind.model, input=["a", "bcd", "a"])

    first, second, third = (each.embedding for each in answer.data)
    assert first == third != second


async def test_the_model_is_listed_with_its_context(server: Running) -> None:
    async with client_of(server) as client:
        [model] = [each async for each in client.models.list()]

    assert model.id == server.kind.model
    assert (model.model_extra or {})["max_model_len"] == server.kind.context


async def test_a_wrong_key_is_refused_and_none_as_well(server: Running) -> None:
    async with client_of(server, "guess") as client:
        with pytest.raises(openai.AuthenticationError):
            await client.completions.create(model=server.kind.model, prompt="Hi")
    async with aiohttp.ClientSession(server.url) as http, http.get("/v1/models") as answer:
        assert answer.status == 401


async def test_an_unknown_model_is_refused_and_the_known_one_named(server: Running) -> None:
    async with client_of(server) as client:
        with pytest.raises(openai.NotFoundError, match=server.kind.model):
            await client.completions.create(model="other", prompt="Hi")


async def test_a_prompt_over_the_context_is_refused_with_the_reason(server: Running) -> None:
    too_long = "word " * (server.kind.context + 1)

    async with client_of(server) as client:
        with pytest.raises(openai.BadRequestError, match=f"tokens.*{server.kind.context}"):
            await client.completions.create(model=server.kind.model, prompt=too_long, max_tokens=1)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": 1}', b'{"prompt": "Hi"}'])
async def test_what_is_no_request_is_refused(server: Running, body: bytes) -> None:
    async with plain(server) as http, http.post(COMPLETIONS, data=body) as answer:
        found = await answer.json()

    assert answer.status == 400
    assert found["error"]["message"]


async def test_an_answer_names_the_request_by_the_id_that_it_had(server: Running) -> None:
    body = {"model": server.kind.model, "prompt": "Hi", "max_tokens": 1}

    async with plain(server) as http, http.post(COMPLETIONS, json=body, headers={"X-Request-Id": "a-1"}) as answer:
        assert answer.headers["X-Request-Id"] == "a-1"


async def test_many_requests_at_a_time_get_each_its_own_answer(server: Running) -> None:
    asked = [prompt() for _ in range(300)]
    async with client_of(server) as client, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(client.completions.create(model=server.kind.model, prompt=each, max_tokens=64))
            for each in asked
        ]

    for text, task in zip(asked, tasks, strict=True):
        assert server.kind.mark(text) in task.result().choices[0].text


async def test_a_client_that_goes_away_ends_its_request(server: Running) -> None:
    async with plain(server) as http:
        before = tokens_made(await metrics(http))
        body = {"model": server.kind.model, "prompt": "Hi there", "stream": True, **server.kind.endless}
        async with http.post(COMPLETIONS, json=body) as answer:
            await answer.content.readany()
            answer.close()
        await busy_until(http, 0)

        made = tokens_made(await metrics(http)) - before

    asked_for = server.kind.endless["max_tokens"]
    assert isinstance(asked_for, int)
    assert 0 < made < asked_for


async def test_a_drained_server_answers_what_it_has_takes_no_more_and_ends_well(own: Running, tmp_path: Path) -> None:
    server, kind = own, own.kind
    slow, release = kind.slow(tmp_path)
    asked = [slow, *(prompt() for _ in range(5))]
    async with plain(server) as http, client_of(server) as client, asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(client.completions.create(model=kind.model, prompt=each, max_tokens=120))
            for each in asked
        ]
        await busy_until(http, len(asked))
        server.process.send_signal(signal.SIGTERM)
        await refuses(http)
        with pytest.raises(openai.APIStatusError) as refused:
            await client.completions.create(model=kind.model, prompt="one more")
        await release()

    await eventually(lambda: server.process.poll() is not None, within_s=20)
    assert refused.value.status_code == 503
    for text, task in zip(asked, tasks, strict=True):
        assert kind.mark(text) in task.result().choices[0].text
    assert server.process.returncode == 0, server.log.read_text()


async def test_what_a_killed_server_had_is_answered_once_by_another(
    own: Running, another: Running, tmp_path: Path
) -> None:
    first, second, model = own, another, own.kind.model
    asked = [prompt() for _ in range(60)]
    slow, release = first.kind.slow(tmp_path)
    async with Router("round_robin", LIMITS) as router:
        router.add(first.replica("r1"))
        async with asyncio.TaskGroup() as group:
            tasks = {
                text: group.create_task(
                    router.ask(Request.make(COMPLETIONS, {"model": model, "prompt": text, "max_tokens": 120}))
                )
                for text in [slow, *asked]
            }
            async with plain(first) as http:
                await busy_until(http, LIMITS.per_replica)  # and the others wait in the router
            router.add(second.replica("r2"))
            first.process.kill()
            await release()

        counters = router.counters
        assert (counters.answered, counters.failed, counters.refused) == (len(tasks), 0, 0)
        assert counters.tried_again >= LIMITS.per_replica
    for text, task in tasks.items():
        assert first.kind.mark(text) in task.result().json()["choices"][0]["text"]
