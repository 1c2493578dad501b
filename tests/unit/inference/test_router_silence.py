"""The router over servers of which nothing comes any more, or nothing for long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from rhapsody.errors import InferenceError
from tests.eventually import eventually
from tests.unit.inference.model_server import failing, hang, nonce
from tests.unit.inference.routing import LIMITS, QUICK, asks, routed, text

if TYPE_CHECKING:
    from rhapsody.inference.request import Request
    from rhapsody.inference.router import Router


@pytest.mark.parametrize("count", [1, 2])
async def test_requests_fail_with_the_reason_when_no_replica_answers_and_none_answers_probes(count: int) -> None:
    async with routed(count, LIMITS._replace(ready_wait_s=0.2), "round_robin") as (router, servers):
        for server in servers:
            server.behave = hang

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_error_of(router, asks(f"p{number}", within_s=None))) for number in range(4)]

        assert [task.result().status for task in asked] == [503] * 4
        assert "r1 is ejected (no answer to a probe within 0.1 s)" in str(asked[0].result())
        assert all(server.probes == 0 for server in servers)
        await eventually(lambda: sum(server.running for server in servers) <= count)  # a probe each, at most


async def _error_of(router: Router, request: Request) -> InferenceError:
    with pytest.raises(InferenceError) as caught:
        await router.ask(request)
    return caught.value


async def test_a_stream_of_the_only_replica_breaks_off_when_nothing_more_comes() -> None:
    async def stops(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await asyncio.Event().wait()
        return response

    async with routed() as (router, (server,)):
        server.behave = stops
        async with router.stream(asks("hello", stream=True, within_s=None)) as stream:
            parts = stream.parts()
            assert await anext(parts) == b"data: one\n\n"
            server.behave = hang
            with pytest.raises(InferenceError, match="r1 broke off: r1 was given up: no answer to a probe"):
                await anext(parts)


@pytest.mark.parametrize("answers_probes", ["answer", "refuse"])
async def test_the_only_replica_keeps_its_requests_while_it_answers_probes(answers_probes: str) -> None:
    release = asyncio.Event()
    probes = 0

    async def slow_but_for_probes(request: web.Request) -> web.StreamResponse | None:
        nonlocal probes
        if (await request.json())["prompt"] != "1":
            await release.wait()
            return None
        probes += 1
        return None if answers_probes == "answer" else await failing(404)(request)

    async with routed() as (router, (server,)):
        server.behave = slow_but_for_probes
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(router.ask(asks("slow", within_s=None)))
            await eventually(lambda: probes >= QUICK.failures + 1)
            assert router.replicas["r1"].is_ready
            release.set()

        assert (text(slow.result()), slow.result().journey.attempts) == (nonce("slow"), 1)
        assert router.replicas["r1"].breaker.ejections == 0
