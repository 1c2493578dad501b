"""The replicas of one model, and the queue before them: who comes first goes first, to a replica that has room."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import OrderedDict
from typing import TYPE_CHECKING

from rhapsody.errors import InferenceError, RhapsodyError, SpecError
from rhapsody.inference.policies import Candidate
from rhapsody.inference.replica import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rhapsody.inference.breaker import Breaker
    from rhapsody.inference.ledger import Entry, Ledger, Load
    from rhapsody.inference.policies import RoutingPolicy
    from rhapsody.inference.replica import Replica
    from rhapsody.inference.request import Request


class Member:
    """A replica in a pool.

    Attributes:
        replica: Which.
        load: What it has in flight.
        breaker: Whether it works.
        candidate: As policies see it.
        seats: Attempts that it has.
        emptied: Set when it is not ready and has no attempts.
    """

    __slots__ = ("breaker", "candidate", "emptied", "load", "replica", "seats")

    def __init__(self, replica: Replica, load: Load, breaker: Breaker) -> None:
        self.replica = replica
        self.load = load
        self.breaker = breaker
        self.candidate = Candidate(replica, load)
        self.seats: set[Seat] = set()
        self.emptied = asyncio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether it gets requests."""
        return self.replica.state is ReplicaState.READY


class Seat:
    """One attempt's place on a replica.

    Attributes:
        member: The replica.
        entry: In the ledger.
        era: Of the replica's breaker.
        granted_at: When it was given.
        cut: Ends the attempt, so that its request goes elsewhere.
        was_cut: Why it was cut; empty if it was not.
    """

    __slots__ = ("cut", "entry", "era", "granted_at", "member", "was_cut")

    def __init__(self, member: Member, entry: Entry, granted_at: float) -> None:
        self.member = member
        self.entry = entry
        self.era = member.breaker.era
        self.granted_at = granted_at
        self.cut: Callable[[], None] | None = None
        self.was_cut = ""

    def end_attempt(self, why: str) -> None:
        """Cut it, once."""
        if not self.was_cut:
            self.was_cut = why
            if self.cut is not None:
                self.cut()


class Traveller:
    """A request on its way through the router.

    Attributes:
        request: What is asked.
        number: Its place in the order of arrival.
        tried: Replicas that failed it, each with its era.
        attempts: How many seats it was given.
        unsent: Of these, where nobody listened.
        began_at: When it was asked.
        waits_since: When it began to wait.
        queued_s: Waited for seats.
        server_s: Waited for servers.
        broke_off: Its answer ended too early, when a part was given already.
        deadline: When its answer comes too late, on the loop's clock; None: never.
    """

    __slots__ = ("attempts", "began_at", "broke_off", "deadline", "number", "queued_s", "request", "server_s", "tried",
                 "unsent", "waits_since")  # fmt: skip

    def __init__(self, request: Request, number: int, now: float, deadline: float | None) -> None:
        self.request = request
        self.number = number
        self.tried: set[tuple[str, int]] = set()
        self.attempts = 0
        self.unsent = 0
        self.began_at = now
        self.waits_since = now
        self.queued_s = 0.0
        self.server_s = 0.0
        self.broke_off = False
        self.deadline = deadline


class _Waiter:
    """A traveller in the queue."""

    __slots__ = ("seat", "traveller")

    def __init__(self, traveller: Traveller, seat: asyncio.Future[Seat]) -> None:
        self.traveller = traveller
        self.seat = seat

    def __lt__(self, other: _Waiter) -> bool:
        return self.traveller.number < other.traveller.number


class Pool:
    """All replicas of one model.

    Args:
        model: Its name.
        policy: Picks the replica.
        ledger: Counts what is in flight.
        room: Most attempts on one replica.
        clock: Gives seconds.
    """

    def __init__(
        self, model: str, policy: RoutingPolicy, ledger: Ledger, room: int, clock: Callable[[], float]
    ) -> None:
        self.model = model
        self.members: dict[str, Member] = {}
        self._policy = policy
        self._ledger = ledger
        self._room = room
        self._clock = clock
        self._again: list[_Waiter] = []  # they came before all that wait for the first time, most of them
        self._fresh: OrderedDict[int, _Waiter] = OrderedDict()
        self._down_since = clock()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self._again) + len(self._fresh)

    async def seat(self, traveller: Traveller) -> Seat:
        """Return a seat, when it is the traveller's turn and a replica has room. Give it back with `leave`.

        Raises:
            InferenceError: No replica was ready for too long.
            SpecError: The policy failed.
        """
        if not self.waiting and (free := self._open_to(traveller, self._free())):
            return self._grant(traveller, free)
        traveller.waits_since = self._clock()
        waiter = _Waiter(traveller, asyncio.get_running_loop().create_future())
        self._enqueue(waiter)
        try:
            return await waiter.seat
        except asyncio.CancelledError:
            self._dequeue(waiter)
            if waiter.seat.done() and not waiter.seat.cancelled() and not waiter.seat.exception():
                self.leave(waiter.seat.result())
            raise

    def leave(self, seat: Seat) -> None:
        """Give a seat back; the next in the queue may take it."""
        self._ledger.leave(seat.entry)
        member = seat.member
        member.seats.discard(seat)
        if not member.seats and not member.is_ready:
            member.emptied.set()
        self.dispatch()

    def changed(self) -> None:
        """Learn that a replica came, went, or changed its state."""
        for member in self.members.values():
            if member.is_ready or member.seats:
                member.emptied.clear()
            else:
                member.emptied.set()
        if any(member.is_ready for member in self.members.values()):
            self._down_since = float("inf")
            self.dispatch()
        elif self._down_since == float("inf"):
            self._down_since = self._clock()

    def dispatch(self) -> None:
        """Seat as many as there is room for, in the order in which they came."""
        while self.waiting and (free := self._free()):
            waiter = self._next(free)
            if waiter is None:
                return
            self._dequeue(waiter)
            if waiter.seat.done():
                continue
            traveller = waiter.traveller
            try:
                seat = self._grant(traveller, self._open_to(traveller, free))
            except RhapsodyError as exc:
                waiter.seat.set_exception(exc)
                continue
            traveller.queued_s += seat.granted_at - traveller.waits_since
            waiter.seat.set_result(seat)

    def give_up(self, wait_s: float) -> int:
        """Fail those that have waited too long without any replica being ready; return how many."""
        latest = self._clock() - wait_s
        if self._down_since > latest:
            return 0
        late = [waiter for waiter in self._waiters() if waiter.traveller.waits_since <= latest]
        error = f"no replica of {self.model} was ready for {wait_s:g} s: {self.state()}"
        for waiter in late:
            self._dequeue(waiter)
            if not waiter.seat.done():
                waiter.seat.set_exception(InferenceError(error, 503, retry_after="5"))
        return len(late)

    def fail_all(self, why: str) -> None:
        """Fail all that wait."""
        for waiter in list(self._waiters()):
            self._dequeue(waiter)
            if not waiter.seat.done():
                waiter.seat.set_exception(InferenceError(why, 503))

    def state(self) -> str:
        """Return what each replica does, in words."""
        told = (f"{each.uid} is {each.state}{f' ({each.reason})' if each.reason else ''}" for each in self._replicas())
        return "; ".join(told) or "there is none"

    def _replicas(self) -> Iterable[Replica]:
        return (member.replica for member in self.members.values())

    def _waiters(self) -> Iterable[_Waiter]:
        yield from self._again
        yield from self._fresh.values()

    def _enqueue(self, waiter: _Waiter) -> None:
        if waiter.traveller.attempts:
            insort(self._again, waiter)
        else:
            self._fresh[waiter.traveller.number] = waiter
        self.dispatch()

    def _dequeue(self, waiter: _Waiter) -> None:
        if self._fresh.pop(waiter.traveller.number, None) is None and waiter in self._again:
            self._again.remove(waiter)

    def _free(self) -> list[Member]:
        room = self._room
        ready = ReplicaState.READY
        return [each for each in self.members.values() if each.replica.state is ready and each.load.requests < room]

    def _next(self, free: list[Member]) -> _Waiter | None:
        """Return the first in the queue who can take one of these; who was failed by all of them waits for others."""
        for waiter in self._again:
            if self._open_to(waiter.traveller, free):
                return waiter
        return next(iter(self._fresh.values()), None)

    def _open_to(self, traveller: Traveller, free: list[Member]) -> list[Member]:
        """Return those that have not failed the traveller; when all that are ready have, those that have room."""
        tried = traveller.tried
        if not tried:
            return free
        ready = [each for each in self.members.values() if each.is_ready]
        if all((each.replica.uid, each.breaker.era) in tried for each in ready):
            return free
        return [each for each in free if (each.replica.uid, each.breaker.era) not in tried]

    def _grant(self, traveller: Traveller, free: list[Member]) -> Seat:
        member = self._chosen(traveller.request, free)
        request = traveller.request
        entry = self._ledger.enter(member.replica.uid, request.tokens_in, request.tokens_out)
        seat = Seat(member, entry, self._clock())
        if not member.seats:
            member.breaker.woke()
        member.seats.add(seat)
        traveller.attempts += 1
        return seat

    def _chosen(self, request: Request, free: list[Member]) -> Member:
        candidates = [each.candidate for each in free]
        try:
            chosen = self._policy.choose(request, candidates)
        except Exception as exc:  # a policy may be the user's own
            raise SpecError(f"the routing policy {type(self._policy).__name__} failed: {exc!r}") from exc
        for member, candidate in zip(free, candidates, strict=True):
            if candidate is chosen:
                return member
        raise SpecError(
            f"the routing policy {type(self._policy).__name__} must return one of the candidates; not {chosen!r}"
        )
