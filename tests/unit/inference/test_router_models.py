"""The router with several models, and with some that have no replica."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import InferenceError, SpecError
from rhapsody.inference.request import COMPLETIONS, Request
from rhapsody.inference.router import Router
from tests.eventually import eventually
from tests.unit.inference.model_server import MODEL, ModelServer, hang
from tests.unit.inference.routing import LIMITS, asks, routed

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def test_an_unknown_model_names_those_that_there_are() -> None:
    async with routed() as (router, _):
        with pytest.raises(SpecError, match="unknown model 'big'; valid: meta/small"):
            await router.ask(Request.make(COMPLETIONS, {"model": "big", "prompt": "x"}))


async def test_requests_of_one_model_do_not_wait_for_another() -> None:
    async with routed(limits=LIMITS._replace(per_replica=1)) as (router, (server,)), ModelServer("e", "other") as other:
        router.add(other.replica())
        server.behave = hang
        async with asyncio.TaskGroup() as group:
            stuck = [group.create_task(router.ask(asks("long"))) for _ in range(2)]
            await eventually(lambda: server.running and router.waiting[MODEL])

            answer = await router.ask(asks("quick", model="other"))

            for task in stuck:
                task.cancel()
        assert answer.journey.replica == "e"


async def test_requests_for_a_model_that_is_expected_wait_for_its_first_replica_and_its_next() -> None:
    async with Router("least_tokens", LIMITS) as router, ModelServer("r1") as first, ModelServer("r2") as second:
        router.expect(MODEL)
        for server in (first, second):
            async with asyncio.TaskGroup() as group:
                asking = group.create_task(router.ask(asks("hello")))
                await eventually(lambda: router.waiting[MODEL] == 1)

                router.add(server.replica())

            assert asking.result().journey.replica == server.uid
            assert router.models == [MODEL]
            router.remove(server.uid)


async def test_requests_for_a_model_that_is_expected_no_more_fail() -> None:
    async with Router("least_tokens", LIMITS) as router:
        router.expect(MODEL)
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_failure_of(router.ask(asks("hello"))))
            await eventually(lambda: router.waiting[MODEL] == 1)

            router.expect_no_more(MODEL)

        assert "has no replica any more, and none is expected" in asking.result()
        with pytest.raises(SpecError, match="unknown model"):
            await router.ask(asks("hello"))


async def _failure_of(asking: Awaitable[object]) -> str:
    with pytest.raises(InferenceError) as caught:
        await asking
    return str(caught.value)
