"""The router over real servers: every request is answered once, or fails with the reason."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
from aiohttp import web

from rhapsody.errors import InferenceError, RequestRefusedError, SpecError
from rhapsody.inference.client import events
from rhapsody.inference.replica import ReplicaState, key_in_file
from rhapsody.inference.router import Router
from tests.eventually import eventually
from tests.unit.inference.model_server import MODEL, ModelServer, break_off, failing, hang, nonce
from tests.unit.inference.routing import LIMITS, QUICK, asks, routed, text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.inference.policies import Candidate
    from rhapsody.inference.request import Request


async def test_a_request_is_answered_with_how_the_answer_came() -> None:
    async with routed() as (router, (server,)):
        answer = await router.ask(asks("hello"))

        assert text(answer) == nonce("hello")
        assert (answer.journey.replica, answer.journey.attempts, answer.journey.queued_s) == ("r1", 1, 0)
        assert 0 < answer.journey.router_s < answer.journey.first_byte_s
        assert server.ids == [f"{answer.journey.request}-1"]


async def test_a_replica_has_no_more_requests_than_it_may_and_they_come_in_order() -> None:
    async with routed(limits=LIMITS._replace(per_replica=1)) as (router, (server,)):
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(router.ask(asks(f"{number}+")))

        assert server.prompts == [f"{number}+" for number in range(30)]
        assert server.most_running == 1


async def test_requests_go_to_the_replica_that_has_room() -> None:
    async with routed(2, LIMITS._replace(per_replica=1, breaker=QUICK._replace(silence_s=99))) as (router, servers):
        servers[0].behave = hang
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(router.ask(asks("long")))
            await eventually(lambda: servers[0].running)
            answers = [await router.ask(asks(f"{number}+")) for number in range(5)]
            stuck.cancel()

    assert {answer.journey.replica for answer in answers} == {"r2"}


async def test_a_broken_connection_sends_the_request_to_another_replica() -> None:
    async with routed(2, policy="round_robin") as (router, servers):
        servers[0].behave = break_off

        answer = await router.ask(asks("hello"))

        assert text(answer) == nonce("hello")
        assert (answer.journey.replica, answer.journey.attempts) == ("r2", 2)
        assert router.counters.tried_again == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_server_that_fails_is_ejected_and_comes_back_when_it_works(*, stream: bool) -> None:
    async with routed(2, policy="round_robin") as (router, servers):
        servers[0].behave = failing(500)
        for number in range(8):
            if stream:
                async with router.stream(asks(f"{number}+", stream=True)) as answer:
                    assert len([data async for data in events(answer.parts())]) == 3
            else:
                assert text(await router.ask(asks(f"{number}+"))) == nonce(f"{number}+")
        first = router.replicas["r1"]
        assert first.replica.state is ReplicaState.EJECTED
        assert "status 500: boom" in first.replica.reason
        assert len(servers[0].prompts) == QUICK.failures

        servers[0].behave = None

        await eventually(lambda: first.is_ready)
        assert servers[0].probes == 1
        assert {(await router.ask(asks("x"))).journey.replica for _ in range(2)} == {"r1", "r2"}


@pytest.mark.parametrize("status", [400, 404, 422])
async def test_a_refusal_is_passed_on_with_the_servers_words_and_not_tried_again(status: int) -> None:
    async with routed(2) as (router, servers):
        for server in servers:
            server.behave = failing(status, "the prompt has 9000 tokens; at most 4096")

        with pytest.raises(RequestRefusedError, match="9000 tokens") as caught:
            await router.ask(asks("hello"))

        assert caught.value.status == status
        assert b"9000 tokens" in caught.value.body
        assert sum(len(server.prompts) for server in servers) == 1
        assert all(member.is_ready for member in router.replicas.values())


async def test_a_busy_server_is_told_apart_from_a_refusal() -> None:
    async with routed() as (router, (server,)):
        server.behave = failing(429, "slow down", **{"Retry-After": "7"})

        with pytest.raises(InferenceError, match="slow down") as caught:
            await router.ask(asks("hello"))

        assert (caught.value.status, caught.value.retry_after) == (429, "7")
        assert len(server.prompts) == 1


async def test_attempts_are_bounded_and_the_last_reason_is_told() -> None:
    limits = LIMITS._replace(attempts=2, breaker=QUICK._replace(failures=99))
    async with routed(3, limits) as (router, servers):
        for server in servers:
            server.behave = failing(500, "out of memory")

        with pytest.raises(
            InferenceError, match=r"after 2 attempts; the last, on r.: status 500: out of memory"
        ) as caught:
            await router.ask(asks("hello"))

        assert caught.value.status == 500
        assert sum(len(server.prompts) for server in servers) == 2


async def test_a_request_gets_past_any_number_of_replicas_that_are_gone() -> None:
    async with routed(9, LIMITS._replace(attempts=2), policy="round_robin") as (router, servers):
        for server in servers[:8]:
            await server.kill()

        answers = [await router.ask(asks(f"{number}+")) for number in range(3)]

        assert [(answer.journey.replica, answer.journey.attempts) for answer in answers] == [("r9", 9)] + [
            ("r9", 1)
        ] * 2
        assert router.counters.tried_again == 8


async def test_nothing_is_tried_after_the_deadline() -> None:
    async with routed(2) as (router, servers):
        for server in servers:
            server.behave = hang

        with pytest.raises(InferenceError, match=r"within 0\.1 s") as caught:
            await router.ask(asks("hello", within_s=0.1))

        assert caught.value.status == 504
        await eventually(lambda: sum(server.aborted for server in servers) == 1)
        assert sum(len(server.prompts) for server in servers) == 1


async def test_a_request_that_waits_for_room_fails_at_its_deadline() -> None:
    async with routed(limits=LIMITS._replace(per_replica=1)) as (router, (server,)):
        server.behave = hang
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(router.ask(asks("long")))
            await eventually(lambda: server.running)
            with pytest.raises(InferenceError, match="waited for a replica with room"):
                await router.ask(asks("late", within_s=0.05))
            assert router.waiting[MODEL] == 0
            stuck.cancel()


async def test_an_answer_to_another_request_is_an_error() -> None:
    async def mixed_up(_: web.Request) -> web.StreamResponse:
        return web.json_response({"choices": [{"text": "wrong"}]}, headers={"X-Request-Id": "another"})

    async with routed(limits=LIMITS._replace(attempts=1)) as (router, (server,)):
        server.behave = mixed_up

        with pytest.raises(InferenceError, match="answered request 'another' instead of"):
            await router.ask(asks("hello"))


async def test_cancelling_the_caller_stops_the_server_and_frees_the_replica() -> None:
    async with routed(limits=LIMITS._replace(per_replica=1)) as (router, (server,)):
        server.behave = hang
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(router.ask(asks("long")))
            await eventually(lambda: server.running)
            waiting = group.create_task(router.ask(asks("behind")))
            await eventually(lambda: router.waiting[MODEL] == 1)
            waiting.cancel()
            asking.cancel()

        await eventually(lambda: server.aborted == 1 and server.running == 0)
        assert server.prompts == ["long"]
        assert router.counters.cancelled == 2


async def test_a_silent_replica_is_given_up_and_its_requests_go_elsewhere() -> None:
    async with routed(2, policy="round_robin") as (router, servers):
        servers[0].behave = hang
        async with asyncio.TaskGroup() as group:
            stuck = group.create_task(router.ask(asks("stuck")))
            await eventually(lambda: servers[0].running)
            while not stuck.done():
                await router.ask(asks("other"))
                await asyncio.sleep(0)

        assert text(stuck.result()) == nonce("stuck")
        assert stuck.result().journey.replica == "r2"
        assert router.replicas["r1"].replica.state is ReplicaState.EJECTED


async def test_a_replica_that_is_only_slow_keeps_its_request_and_comes_back() -> None:
    release = asyncio.Event()

    async def slow_but_for_probes(request: web.Request) -> None:
        if (await request.json())["prompt"] != "1":
            await release.wait()

    async with routed(2, LIMITS._replace(per_replica=1)) as (router, servers):
        servers[0].behave = slow_but_for_probes
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(router.ask(asks("slow")))
            await eventually(lambda: servers[0].running)
            while not servers[0].probes:
                await router.ask(asks("other"))
            await eventually(lambda: router.replicas["r1"].is_ready)
            release.set()

        assert (slow.result().journey.replica, slow.result().journey.attempts) == ("r1", 1)


async def test_a_single_replica_may_restart_while_requests_wait() -> None:
    async with routed() as (router, (server,)):
        await router.ask(asks("before"))
        await server.kill()
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(router.ask(asks("meanwhile")))
            await eventually(lambda: not router.replicas["r1"].is_ready)

            await server.start()

        assert text(asking.result()) == nonce("meanwhile")


async def test_a_request_fails_when_no_replica_is_ready_for_too_long() -> None:
    async with routed(limits=LIMITS._replace(ready_wait_s=0.1)) as (router, (server,)):
        await server.kill()

        with pytest.raises(InferenceError, match=r"was ready for 0\.1 s: r1 is ejected \(cannot connect") as caught:
            await router.ask(asks("hello"))

        assert caught.value.status == 503


async def test_a_drained_replica_ends_what_it_has_and_gets_nothing_more() -> None:
    release = asyncio.Event()

    async def wait(_: web.Request) -> None:
        await release.wait()

    async with routed(2, policy="round_robin") as (router, servers):
        servers[0].behave = wait
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(router.ask(asks("kept")))
            await eventually(lambda: servers[0].running)
            draining = group.create_task(router.drain("r1"))
            for number in range(4):
                assert (await router.ask(asks(f"{number}+"))).journey.replica == "r2"
            assert not draining.done()
            release.set()

        assert asking.result().journey.replica == "r1"
        assert list(router.replicas) == ["r2"]


async def test_requests_of_a_removed_replica_go_to_one_that_was_added() -> None:
    async with routed() as (router, (server,)), ModelServer("r9") as new:
        server.behave = hang
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(router.ask(asks("hello")))
            await eventually(lambda: server.running)

            router.add(new.replica())
            router.remove("r1")

        assert asking.result().journey.replica == "r9"
        await eventually(lambda: server.aborted == 1)


async def test_parts_of_a_stream_come_while_the_server_still_works() -> None:
    more = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await more.wait()
        await response.write(b"data: two\n\ndata: [DONE]\n\n")
        return response

    async with routed() as (router, (server,)):
        server.behave = slow
        async with router.stream(asks("hello", stream=True)) as stream:
            parts = events(stream.parts())
            first = await anext(parts)
            more.set()
            rest = [data async for data in parts]

        assert (first, rest) == (b"one", [b"two"])


@pytest.mark.parametrize("whole", [False, True])
async def test_a_stream_that_ends_early_is_an_error(*, whole: bool) -> None:
    async with routed(limits=LIMITS._replace(attempts=1)) as (router, (server,)):
        server.behave = lambda request: server.stream(request, ["a ", "b "], done=False)

        with pytest.raises(InferenceError, match="without `data:"):
            await _read(router, asks("hello", stream=True), whole=whole)

        assert len(server.prompts) == 1
        assert (router.counters.failed, router.counters.answered) == (1, 0)


async def _read(router: Router, request: Request, *, whole: bool) -> None:
    if whole:
        await router.ask(request)
        return
    async with router.stream(request) as stream:
        assert [part async for part in stream.parts()]


async def test_leaving_a_stream_stops_the_server() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await asyncio.Event().wait()
        return response

    async with routed() as (router, (server,)):
        server.behave = endless

        async with router.stream(asks("hello", stream=True)) as stream:
            assert await anext(stream.parts()) == b"data: one\n\n"

        await eventually(lambda: server.aborted == 1)


async def test_a_replica_gets_its_key_and_no_other_does(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret-of-r1\n")
    file.chmod(0o600)
    async with ModelServer("r1") as locked, ModelServer("r2") as free, Router("round_robin", LIMITS) as router:
        router.add(locked.replica(key_in_file(file)))
        router.add(free.replica())

        for _ in range(2):
            await router.ask(asks("hello"))

        assert (locked.keys, free.keys) == (["Bearer secret-of-r1"], [""])


async def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("secret")
    file.chmod(0o644)
    async with ModelServer() as server, Router(limits=LIMITS) as router:
        with pytest.raises(SpecError, match="chmod 600"):
            router.add(server.replica(key_in_file(file)))

        assert router.models == []


class _Wrong:
    """Policies that break their contract."""

    def __init__(self, what: str) -> None:
        self.what = what

    def choose(self, request: Request, candidates: Sequence[Candidate]) -> Candidate:  # noqa: ARG002
        if self.what == "raises":
            raise KeyError("none")
        return candidates[0]._replace()


@pytest.mark.parametrize(("what", "says"), [("raises", "failed: KeyError"), ("invents", "one of the candidates")])
async def test_a_policy_that_fails_fails_the_request_and_says_so(what: str, says: str) -> None:
    async with ModelServer() as server, Router(_Wrong(what), LIMITS) as router:
        router.add(server.replica())

        with pytest.raises(SpecError, match=f"_Wrong .*{says}|_Wrong {says}"):
            await router.ask(asks("hello"))

        assert router.ledger.in_flight == 0


async def test_a_closing_router_fails_what_waits_and_what_runs() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(ModelServer())
        server.behave = hang
        group = await stack.enter_async_context(asyncio.TaskGroup())
        async with Router(limits=LIMITS._replace(per_replica=1)) as router:
            router.add(server.replica())
            tasks = [group.create_task(_outcome(router)) for _ in range(2)]
            await eventually(lambda: server.running and router.waiting[MODEL])

        outcomes = [await task for task in tasks]

    assert all("closing" in outcome for outcome in outcomes)


async def _outcome(router: Router) -> str:
    try:
        return text(await router.ask(asks("x")))
    except InferenceError as exc:
        return str(exc)


async def test_each_of_1000_requests_is_answered_once_while_replicas_are_killed() -> None:
    chance = random.Random(7)  # noqa: S311
    answers: dict[str, list[str]] = {}
    limits = LIMITS._replace(per_replica=20, attempts=10)
    async with routed(3, limits) as (router, servers):

        async def later(_: web.Request) -> None:
            await asyncio.sleep(chance.random() * 0.02)

        for server in servers:
            server.behave = later

        async def one(number: int) -> None:
            prompt = f"prompt {number}"
            answers.setdefault(prompt, []).append(text(await router.ask(asks(prompt, within_s=60))))

        async def trouble() -> None:
            for at in (150, 400, 650):
                await eventually(lambda at=at: len(answers) >= at, within_s=30)  # type: ignore[misc]
                server = chance.choice(servers)
                await server.kill()
                await server.start()

        async with asyncio.TaskGroup() as group:
            group.create_task(trouble())
            for number in range(1000):
                group.create_task(one(number))

        assert router.counters.tried_again > 0
    assert answers == {f"prompt {number}": [nonce(f"prompt {number}")] for number in range(1000)}


async def test_2000_requests_may_be_under_way_at_once() -> None:
    async with routed(2, LIMITS._replace(per_replica=150)) as (router, servers):
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(router.ask(asks(f"p{number}", within_s=60))) for number in range(2000)]
            await eventually(lambda: router.waiting[MODEL] >= 1700)

        assert [text(task.result()) for task in asked] == [nonce(f"p{number}") for number in range(2000)]
        assert max(server.most_running for server in servers) <= 150
