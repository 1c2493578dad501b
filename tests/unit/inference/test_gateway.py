"""The gateway over real servers, as OpenAI's client sees it and as a bare connection does."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import aiohttp
import openai
import pytest
from aiohttp import web

from rhapsody.errors import SpecError
from rhapsody.inference.breaker import BreakerSettings
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import key_in_file, read_secret
from rhapsody.inference.router import Limits, Router
from tests.eventually import eventually
from tests.unit.inference.model_server import MODEL, ModelServer, failing, hang, nonce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

TOKEN = "token-of-the-gateway"  # noqa: S105 - of these tests
LIMITS = Limits(ready_wait_s=0.1, tick_s=0.02, breaker=BreakerSettings(first_pause_s=0.05, probe_s=0.3))
HELLO = {"model": MODEL, "prompt": "hello", "max_tokens": 4}


class Setting:
    """A gateway over servers, and clients of it."""

    def __init__(
        self, gateway: Gateway, router: Router, servers: list[ModelServer], http: aiohttp.ClientSession
    ) -> None:
        self.gateway = gateway
        self.router = router
        self.servers = servers
        self.http = http

    def openai(self, token: str = TOKEN) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.gateway.url, api_key=token, max_retries=0)

    async def metric(self, name: str) -> float:
        async with self.http.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])


@asynccontextmanager
async def gateway(count: int = 1, *, body_limit: int = 100_000, within_s: float = 20) -> AsyncIterator[Setting]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ModelServer(f"r{number}")) for number in range(1, count + 1)]
        router = await stack.enter_async_context(Router("round_robin", LIMITS))
        for server in servers:
            router.add(server.replica())
        listening = Gateway(router, "127.0.0.1", 0, TOKEN, body_limit=body_limit, within_s=within_s)
        await stack.enter_async_context(listening)
        http = aiohttp.ClientSession(f"http://127.0.0.1:{listening.port}", headers={"Authorization": f"Bearer {TOKEN}"})
        yield Setting(listening, router, servers, await stack.enter_async_context(http))


async def test_openais_client_completes_chats_and_embeds_through_the_gateway() -> None:
    async with gateway(2) as at, at.openai() as client:
        completed = await client.completions.create(model=MODEL, prompt="hello", max_tokens=4)
        chatted = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hi"}])
        embedded = await client.embeddings.create(model=MODEL, input="text", encoding_format="float")

    assert completed.choices[0].text == nonce("hello")
    assert chatted.choices[0].message.content == nonce("hi")
    assert embedded.data[0].embedding == [0.5, 0.25]


async def test_openais_client_streams_through_the_gateway() -> None:
    async with gateway() as at, at.openai() as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], stream=True
        )
        words = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(words) == f"the nonce {nonce('hi')}"


async def test_models_of_all_replicas_are_listed_once() -> None:
    async with gateway(2) as at, ModelServer("r9", "other") as other, at.openai() as client:
        at.router.add(other.replica())

        models = [model.id async for model in client.models.list()]
        found = await client.models.retrieve(MODEL)

    assert models == [MODEL, "other"]
    assert found.id == MODEL


async def test_bytes_of_a_stream_pass_unchanged_and_at_once() -> None:
    more = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(b": odd  comment\r\ndata:one\r\n\r\n")
        await more.wait()
        await response.write(b"data: [DONE]\n\n")
        return response

    async with gateway() as at:
        at.servers[0].behave = slow
        async with at.http.post("/v1/completions", json={**HELLO, "stream": True}) as answer:
            first = await answer.content.readany()
            more.set()
            rest = await answer.content.read()

        assert first == b": odd  comment\r\ndata:one\r\n\r\n"
        assert rest == b"data: [DONE]\n\n"
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"


@pytest.mark.parametrize("shown", ["", f"Bearer {TOKEN}x", TOKEN, "Bearer ü", "Basic abc"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/v1/completions", "/nothing"])
async def test_who_does_not_show_the_token_is_refused(path: str, shown: str) -> None:
    async with gateway() as at, aiohttp.ClientSession() as stranger:
        url = f"http://127.0.0.1:{at.gateway.port}{path}"
        async with stranger.get(url, headers={"Authorization": shown}) as answer:
            error = (await answer.json())["error"]

    assert answer.status == 401
    assert error["code"] == "invalid_api_key"
    assert TOKEN not in error["message"]


async def test_openais_client_sees_a_wrong_token_and_an_unknown_model_as_what_they_are() -> None:
    async with gateway() as at, at.openai("wrong") as stranger, at.openai() as client:
        with pytest.raises(openai.AuthenticationError):
            await stranger.models.retrieve(MODEL)
        with pytest.raises(openai.NotFoundError, match="there is no model 'big'; models: meta/small"):
            await client.completions.create(model="big", prompt="x")

    assert at.servers[0].prompts == []


async def test_openais_client_gets_the_servers_words_of_a_refusal() -> None:
    async with gateway() as at, at.openai() as client:
        at.servers[0].behave = failing(400, "9000 tokens are too many")

        with pytest.raises(openai.BadRequestError, match="9000 tokens are too many"):
            await client.completions.create(model=MODEL, prompt="x")


async def test_a_key_that_a_replica_refuses_is_not_the_clients_fault() -> None:
    async with gateway() as at:
        at.servers[0].behave = failing(401, "wrong key")

        async with at.http.post("/v1/completions", json=HELLO) as answer:
            error = (await answer.json())["error"]

    assert (answer.status, error["code"]) == (502, "replica_refused_key")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"prompt": "x"}', b'{"model": 5}', b"\xff"])
async def test_a_request_that_cannot_be_read_is_refused_with_the_reason(body: bytes) -> None:
    async with gateway() as at, at.http.post("/v1/completions", data=body) as answer:
        error = (await answer.json())["error"]

    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert "cannot be read" in error["message"]


async def test_a_request_that_is_too_large_is_refused() -> None:
    async with gateway(body_limit=1000) as at:
        async with at.http.post("/v1/completions", json={**HELLO, "prompt": "x" * 2000}) as answer:
            error = (await answer.json())["error"]

        assert answer.status == 413
        assert "too large" in error["message"]
        assert at.servers[0].prompts == []


async def test_when_no_replica_is_ready_clients_are_told_why_and_when_to_come_again() -> None:
    async with gateway() as at:
        await at.servers[0].kill()

        async with at.http.post("/v1/completions", json=HELLO) as answer:
            error = (await answer.json())["error"]
        async with at.http.get("/health", headers={"Authorization": ""}) as health:
            await health.read()

    assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    assert "r1 is ejected (cannot connect" in error["message"]
    assert health.status == 503


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_stops_the_server(*, stream: bool) -> None:
    async with gateway() as at:
        at.servers[0].behave = hang
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(at.http.post("/v1/completions", json={**HELLO, "stream": stream}))
            await eventually(lambda: at.servers[0].running)

            asking.cancel()

        await eventually(lambda: at.servers[0].aborted == 1)
        await eventually(lambda: at.router.ledger.in_flight == 0)
        assert await at.metric(f'rhapsody_gateway_requests_total{{model="{MODEL}",outcome="cancelled"') == 1


async def test_a_client_that_leaves_a_stream_stops_the_server() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await asyncio.Event().wait()
        return response

    async with gateway() as at:
        at.servers[0].behave = endless

        async with at.http.post("/v1/completions", json={**HELLO, "stream": True}) as answer:
            await answer.content.readany()

        await eventually(lambda: at.servers[0].aborted == 1)


async def test_a_client_that_is_found_gone_when_a_part_is_written_is_no_error_of_the_gateway(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def gone(_: object, __: object, http: web.Request) -> str:
        assert http.transport is not None
        http.transport.abort()
        raise aiohttp.ClientConnectionResetError("Cannot write to closing transport")

    monkeypatch.setattr("rhapsody.inference.gateway._pass_on", gone)
    async with gateway() as at:
        async with at.http.post("/v1/completions", json={**HELLO, "stream": True}) as answer:
            with pytest.raises(aiohttp.ClientError):
                await answer.read()

        assert at.router.counters.cancelled == 1
        assert await at.metric(f'rhapsody_gateway_requests_total{{model="{MODEL}",outcome="cancelled"') == 1
    assert caplog.records == []


async def test_a_stream_that_breaks_off_is_no_answer() -> None:
    async with gateway() as at, at.openai() as client:
        at.servers[0].behave = lambda request: at.servers[0].stream(request, ["a ", "b "], done=False)

        with pytest.raises(openai.APIError, match="the answer of r1 broke off"):
            await _read(await client.completions.create(model=MODEL, prompt="x", stream=True))
        async with at.http.post("/v1/completions", json={**HELLO, "stream": True}) as answer:
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()

        assert await at.metric(f'rhapsody_gateway_requests_total{{model="{MODEL}",outcome="broken_off"') == 2


async def _read(stream: openai.AsyncStream[openai.types.Completion]) -> None:
    async for _ in stream:
        pass


async def test_a_request_that_takes_too_long_is_a_timeout() -> None:
    async with gateway(within_s=0.1) as at:
        at.servers[0].behave = hang

        async with at.http.post("/v1/completions", json=HELLO) as answer:
            await answer.read()

    assert answer.status == 504


async def test_a_client_finds_its_own_id_on_the_answer_and_servers_never_see_one_twice() -> None:
    async with gateway() as at:
        for _ in range(2):
            async with at.http.post("/v1/completions", json=HELLO, headers={"X-Request-Id": "mine"}) as answer:
                assert answer.headers["X-Request-Id"] == "mine"

        assert len(set(at.servers[0].ids)) == 2
        assert "mine" not in at.servers[0].ids


async def test_figures_of_requests_replicas_and_queues_are_told() -> None:
    async with gateway(2) as at:
        for _ in range(4):
            async with at.http.post("/v1/completions", json=HELLO) as answer:
                await answer.read()

        of_first = f'{{model="{MODEL}",outcome="answered",replica="r1"}}'
        assert await at.metric(f"rhapsody_gateway_requests_total{of_first}") == 2
        assert await at.metric(f'rhapsody_gateway_in_flight{{model="{MODEL}",replica="r1"}}') == 0
        assert await at.metric(f'rhapsody_gateway_queue_length{{model="{MODEL}"}}') == 0
        assert await at.metric(f'rhapsody_gateway_replicas{{model="{MODEL}",state="ready"}}') == 2
        assert await at.metric(f'rhapsody_gateway_router_seconds_count{{model="{MODEL}"}}') == 4
        assert await at.metric(f'rhapsody_gateway_first_byte_seconds_count{{model="{MODEL}"}}') == 4


async def test_health_needs_no_token_and_other_paths_are_unknown() -> None:
    async with gateway() as at, aiohttp.ClientSession() as stranger:
        async with stranger.get(f"http://127.0.0.1:{at.gateway.port}/health") as health:
            await health.read()
        async with at.http.get("/v1/nothing") as nothing:
            error = (await nothing.json())["error"]
        async with at.http.get("/v1/completions") as wrong:
            await wrong.read()

    assert (health.status, nothing.status, wrong.status) == (200, 404, 405)
    assert error["type"] == "not_found_error"


async def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    async with gateway() as at:
        second = Gateway(at.router, "127.0.0.1", at.gateway.port, TOKEN)

        with pytest.raises(SpecError, match="cannot listen on"):
            await second.__aenter__()


def test_a_short_token_is_refused() -> None:
    with pytest.raises(SpecError, match="has 3 characters"):
        Gateway(Router(), "127.0.0.1", 0, "abc")


@pytest.mark.parametrize(("mode", "content", "says"), [(0o644, "s", "chmod 600"), (0o600, " \n", "one word")])
def test_a_token_is_read_only_from_a_file_of_ones_own(tmp_path: Path, mode: int, content: str, says: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    file.chmod(mode)

    with pytest.raises(SpecError, match=says):
        read_secret(file)


async def test_a_gateway_is_a_replica_for_another_router(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    async with gateway() as at, Router(limits=LIMITS) as outer, ModelServer() as shape:
        replica = shape.replica(key_in_file(token))
        replica.url = f"http://127.0.0.1:{at.gateway.port}"
        outer.add(replica)
        async with Gateway(outer, "127.0.0.1", 0, TOKEN) as front:
            url = f"http://127.0.0.1:{front.port}/v1/completions"
            async with at.http.post(url, json=HELLO) as answer:
                found = await answer.json()

    assert found["choices"][0]["text"] == nonce("hello")
