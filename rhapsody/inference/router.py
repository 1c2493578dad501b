"""Requests to models, over all replicas: each is answered once, or fails with the reason.

It waits in one queue, and goes late: to a replica that has room by then. Everything runs in the caller's own asyncio
task; cancelling it closes the connection, so that the server stops.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple, Self

from rhapsody.errors import InferenceError, RequestRefusedError, SpecError, unknown_name
from rhapsody.inference.breaker import Breaker, BreakerSettings, Fault
from rhapsody.inference.client import AttemptFailed, Client, Reply, words_of
from rhapsody.inference.ledger import Ledger
from rhapsody.inference.policies import routing_policy
from rhapsody.inference.replica import Replica, ReplicaState
from rhapsody.inference.request import Answer, Journey, Request
from rhapsody.inference.router_health import Keeper
from rhapsody.inference.router_pool import Member, Pool, Seat, Traveller

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from rhapsody.inference.policies import RoutingPolicy


class Limits(NamedTuple):
    """What a router allows.

    Attributes:
        per_replica: Requests that one replica has at a time; the others wait here.
        attempts: Of one request, on all replicas together; those where nobody listened are not counted.
        ready_wait_s: A request fails when no replica was ready for so long.
        tick_s: How often the state of replicas is looked at.
        breaker: When replicas are ejected and probed.
    """

    per_replica: int = 256
    attempts: int = 8
    ready_wait_s: float = 30.0
    tick_s: float = 0.1
    breaker: BreakerSettings = BreakerSettings()


class Counters:
    """What a router has done since it was made."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0
        self.failed = 0
        self.cancelled = 0
        self.tried_again = 0


class Stream:
    """An answer that comes in parts.

    Attributes:
        content_type: What the server calls it.
        journey: How it came.
    """

    def __init__(self, journey: Journey, content_type: str, parts: AsyncIterator[bytes]) -> None:
        self.journey = journey
        self.content_type = content_type
        self._parts = parts

    def parts(self) -> AsyncIterator[bytes]:
        """Yield bytes as they come, once.

        Raises:
            InferenceError: The connection broke; what came before is not the whole answer.
        """
        return self._parts


class Router:
    """Sends requests to replicas; use it with `async with`, and only from its event loop.

    Args:
        policy: Name of a routing policy, or one of your own; of a name, each model has a policy of its own.
        limits: What it allows.
        clock: Gives seconds.
    """

    def __init__(
        self,
        policy: str | RoutingPolicy = "least_tokens",
        limits: Limits = Limits(),  # noqa: B008 - it never changes
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits
        self.counters = Counters()
        self.ledger = Ledger()
        routing_policy(policy)  # a wrong name fails here
        self._policy = policy
        self._clock = clock
        self._client = Client()
        self._pools: dict[str, Pool] = {}
        self._models: dict[str, str] = {}
        self._expected: set[str] = set()
        self._number = 0
        self._stack = AsyncExitStack()
        self._is_open = False

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._client)
        keeper = Keeper(self._client, self._pools.values, self.limits.breaker.probe_s, self.limits.ready_wait_s)
        await self._stack.enter_async_context(keeper.running(self.limits.tick_s))
        self._is_open = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._is_open = False
        for pool in self._pools.values():
            pool.fail_all("the router is closing")
            for member in pool.members.values():
                _cut(member, "the router is closing")
        await self._stack.aclose()

    @property
    def models(self) -> list[str]:
        """Names of models that have a replica, ready or not, or are expected to have one."""
        return sorted({model for model, pool in self._pools.items() if pool.members} | self._expected)

    def serves(self, model: str) -> bool:
        """Return whether a model has a replica, ready or not, or is expected to have one."""
        return model in self._expected or (model in self._pools and bool(self._pools[model].members))

    @property
    def replicas(self) -> Mapping[str, Member]:
        """All replicas by uid; look, do not touch."""
        return {uid: member for pool in self._pools.values() for uid, member in pool.members.items()}

    @property
    def waiting(self) -> Mapping[str, int]:
        """By model, how many requests are in the queue."""
        return {model: pool.waiting for model, pool in self._pools.items()}

    def add(self, replica: Replica) -> None:
        """Send requests to one more replica, from now on.

        Raises:
            SpecError: Another has its uid, or its key cannot be found.
        """
        if replica.uid in self._models or replica.uid in self.ledger.loads:
            raise SpecError(f"there is a replica {replica.uid!r} already; remove it first, or give this another uid")
        self._client.meet(replica)
        breaker = Breaker(self.limits.breaker, self._clock)
        pool = self._pool_for(replica.model)
        replica.state, replica.reason = ReplicaState.READY, ""
        self._models[replica.uid] = replica.model
        pool.members[replica.uid] = Member(replica, self.ledger.open(replica.uid), breaker)
        pool.changed()

    def expect(self, model: str) -> None:
        """Take requests for a model even while it has no replica, such as before the first is up, or between two lives.

        They wait for one, but no longer than `ready_wait_s`.
        """
        self._expected.add(model)
        self._pool_for(model)

    def expect_no_more(self, model: str) -> None:
        """Undo `expect`; when the model has no replica, what waits for one fails."""
        self._expected.discard(model)
        pool = self._pools.get(model)
        if pool is not None and not pool.members:
            pool.fail_all(f"{model} has no replica any more, and none is expected")

    def retire(self, uid: str) -> None:
        """Send a replica nothing more; it ends what it has.

        Raises:
            SpecError: There is no such replica.
        """
        pool, member = self._find(uid)
        member.replica.state = ReplicaState.DRAINING
        pool.changed()

    async def drain(self, uid: str) -> None:
        """Send a replica nothing more, wait until it has answered what it has, and remove it.

        A call that is cancelled leaves it draining.

        Raises:
            SpecError: There is no such replica.
        """
        self.retire(uid)
        pool, member = self._find(uid)
        await member.emptied.wait()
        if pool.members.get(uid) is member:
            self.remove(uid)

    def remove(self, uid: str) -> None:
        """Forget a replica now; what it has in flight goes to another.

        Raises:
            SpecError: There is no such replica.
        """
        pool, member = self._find(uid)
        member.replica.state = ReplicaState.GONE
        del pool.members[uid], self._models[uid]
        self._client.forget(member.replica)
        self.ledger.close(uid)
        _cut(member, "the replica was removed")
        member.emptied.set()
        pool.changed()

    async def ask(self, request: Request) -> Answer:
        """Return the answer to a request.

        Raises:
            RequestRefusedError: The server refuses it, with status 4xx.
            InferenceError: It was not answered, in time or at all; or the server has too much to do, 429.
            SpecError: No replica has the model.
        """
        async with self._reply(request, whole=True) as (seat, reply, body, traveller):
            first_byte_s = self._clock() - traveller.began_at
        journey = self._journey(traveller, seat, first_byte_s)
        return Answer(body, reply.content_type, journey)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        """Give the answer in parts, once the first of them is there; leaving closes the connection.

        Raises:
            RequestRefusedError: The server refuses it, with status 4xx.
            InferenceError: It was not answered, in time or at all; or the server has too much to do, 429.
            SpecError: No replica has the model.
        """
        async with self._reply(request, whole=False) as (seat, reply, first, traveller):
            journey = self._journey(traveller, seat, self._clock() - traveller.began_at)
            parts = self._parts(seat, reply, first, traveller)
            try:
                yield Stream(journey, reply.content_type, parts)
            finally:
                await parts.aclose()

    @asynccontextmanager
    async def _reply(self, request: Request, *, whole: bool) -> AsyncIterator[tuple[Seat, Reply, bytes, Traveller]]:
        """Give a reply that has come, and hold its seat meanwhile."""
        pool = self._pool(request.model)
        self._number += 1
        traveller = Traveller(request, self._number, self._clock(), _deadline(request))
        try:
            seat, reply, body = await self._travel(pool, traveller, whole=whole)
            try:
                yield seat, reply, body, traveller
            finally:
                reply.close()
                pool.leave(seat)
        except InferenceError:
            self.counters.failed += 1
            raise
        except RequestRefusedError:
            self.counters.refused += 1
            raise
        except (asyncio.CancelledError, GeneratorExit, ConnectionError):  # the last of whom a stream is passed on to
            self.counters.cancelled += 1
            raise
        if traveller.broke_off:  # and the caller has dealt with it
            self.counters.failed += 1
        else:
            self.counters.answered += 1

    async def _travel(self, pool: Pool, traveller: Traveller, *, whole: bool) -> tuple[Seat, Reply, bytes]:
        """Try replica after replica."""
        while True:
            seat = await self._seat(pool, traveller)
            keeps_seat = False
            began = self._clock()
            try:
                reply, body = await self._attempt(seat, traveller, whole=whole)
                keeps_seat = True
            except AttemptFailed as exc:
                self._failed(pool, seat, traveller, exc)
            else:
                return seat, reply, body
            finally:
                traveller.server_s += self._clock() - began
                if not keeps_seat:
                    pool.leave(seat)

    async def _seat(self, pool: Pool, traveller: Traveller) -> Seat:
        try:
            async with asyncio.timeout_at(traveller.deadline):
                return await pool.seat(traveller)
        except TimeoutError as exc:
            raise _too_late(traveller, "it still waited for a replica with room") from exc

    async def _attempt(self, seat: Seat, traveller: Traveller, *, whole: bool) -> tuple[Reply, bytes]:
        """Send the request to the seat's replica; return the reply with its first part, or with all of it."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(traveller.deadline) as limit:
                # One that has expired cannot be set anew.
                seat.cut = lambda: None if limit.expired() else limit.reschedule(loop.time())
                if seat.was_cut:
                    raise AttemptFailed(Fault.BROKEN, seat.was_cut)
                return await self._exchange(seat, traveller, whole=whole)
        except TimeoutError as exc:
            if seat.was_cut:
                raise AttemptFailed(Fault.SILENT, seat.was_cut) from exc
            raise _too_late(traveller, f"{seat.member.replica.uid} had not answered") from exc
        finally:
            seat.cut = None

    async def _exchange(self, seat: Seat, traveller: Traveller, *, whole: bool) -> tuple[Reply, bytes]:
        request, member = traveller.request, seat.member
        reply = await self._client.send(member.replica, request, f"{request.uid}-{traveller.attempts}")
        try:
            await _require_answer(member.replica, reply)
            body = await (reply.whole() if whole else reply.part())
        except BaseException as exc:  # cancellation too: the server stops when the connection closes
            reply.close()
            if isinstance(exc, RequestRefusedError | InferenceError):
                member.breaker.progressed()
            raise
        member.breaker.progressed()
        return reply, body

    async def _parts(self, seat: Seat, reply: Reply, first: bytes, traveller: Traveller) -> AsyncGenerator[bytes, None]:
        """Yield the first part and all others."""
        breaker = seat.member.breaker
        seat.cut = reply.close
        if seat.was_cut:
            reply.close()
        part = first
        try:
            while part:
                yield part
                async with asyncio.timeout_at(traveller.deadline):
                    part = await reply.part()
                breaker.progressed()
        except AttemptFailed as exc:
            self._blame(seat, exc)
            traveller.broke_off = True
            why = seat.was_cut or str(exc)
            raise InferenceError(f"the answer of {seat.member.replica.uid} broke off: {why}") from exc
        except TimeoutError as exc:
            raise _too_late(traveller, "its answer had not ended") from exc
        finally:
            seat.cut = None

    def _failed(self, pool: Pool, seat: Seat, traveller: Traveller, exc: AttemptFailed) -> None:
        """Take note of a failed attempt; raise the reason when there will be no other."""
        replica = seat.member.replica
        self._blame(seat, exc)
        traveller.tried.add((replica.uid, seat.era))
        traveller.unsent += exc.fault is Fault.UNREACHABLE
        if self._is_open and traveller.attempts - traveller.unsent < self.limits.attempts:
            self.counters.tried_again += 1
            return
        tries = f"{traveller.attempts} attempt{'s' if traveller.attempts > 1 else ''}"
        text = f"no answer from {pool.model} after {tries}; the last, on {replica.uid}: {exc}"
        raise InferenceError(text, exc.status or 502, exc.body, exc.retry_after) from exc

    def _blame(self, seat: Seat, exc: AttemptFailed) -> None:
        """Tell the breaker, which may eject the replica."""
        member = seat.member
        if seat.was_cut or not member.breaker.failed(exc.fault, seat.era):
            return
        if member.is_ready:
            member.replica.state, member.replica.reason = ReplicaState.EJECTED, str(exc)
            self._pools[member.replica.model].changed()

    def _journey(self, traveller: Traveller, seat: Seat, first_byte_s: float) -> Journey:
        """Say how an answer came; what is left of the time so far is the router's own."""
        router_s = self._clock() - traveller.began_at - traveller.queued_s - traveller.server_s
        uid = seat.member.replica.uid
        return Journey(traveller.request.uid, uid, traveller.attempts, traveller.queued_s, first_byte_s, router_s)

    def _pool(self, model: str) -> Pool:
        if not self._is_open:
            raise InferenceError("the router is closed; use it within `async with`", 503)
        if not self.serves(model):
            raise unknown_name("model", model, self.models)
        return self._pools[model]

    def _pool_for(self, model: str) -> Pool:
        """Return the pool of a model; there is one from the first replica on, or from when it was expected."""
        if model not in self._pools:
            policy = routing_policy(self._policy)
            self._pools[model] = Pool(model, policy, self.ledger, self.limits.per_replica, self._clock)
        return self._pools[model]

    def _find(self, uid: str) -> tuple[Pool, Member]:
        if uid not in self._models:
            raise unknown_name("replica", uid, self._models)
        pool = self._pools[self._models[uid]]
        return pool, pool.members[uid]


def _cut(member: Member, why: str) -> None:
    for seat in list(member.seats):
        seat.end_attempt(why)


def _deadline(request: Request) -> float | None:
    """Return when a request that is asked now is too late, on the loop's clock."""
    return None if request.within_s is None else asyncio.get_running_loop().time() + request.within_s


def _too_late(traveller: Traveller, what: str) -> InferenceError:
    request = traveller.request
    return InferenceError(f"no answer from {request.model} within {request.within_s:g} s: {what}", 504)


async def _require_answer(replica: Replica, reply: Reply) -> None:
    """Raise what the server has against the request, if anything."""
    if reply.status < 400:
        return
    body = await reply.words()
    text = f"{replica.uid} refuses a request with status {reply.status}: {words_of(body)}"
    if reply.status in (408, 429):  # another time it may take it
        raise InferenceError(text, reply.status, body, reply.retry_after)
    raise RequestRefusedError(text, reply.status, body)
