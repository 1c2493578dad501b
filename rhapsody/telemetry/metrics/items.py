"""The items of one array task, folded: how many are in which state, and when its launches ran."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from rhapsody.model.event import State

if TYPE_CHECKING:
    from rhapsody.telemetry.frames import Range

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, UNKNOWN = State.DONE, State.FAILED, State.UNKNOWN
_FROM_THE_START = (WAITING, READY, PLACED, RUNNING)
_TRIED = {FAILED: 1, UNKNOWN: 2}


class Runs(Protocol):
    """Who is told when items ran."""

    def ran(self, start_ns: int, end_ns: int, count: int) -> None:
        """Take the time of a stretch in which so many items of one launch ran, one after the other."""


class _Launch:
    """A range of items that was placed: they run one after the other.

    Attributes:
        since_ns: When it was placed; once it runs, when the last stretch that was told ended.
        began_ns: When it began to run, None before.
        left: Items that have not ended.
        fresh: Items that never ran before, and were not given back.
        failed: Items that failed, which a later range of DONE ones leaves out.
    """

    __slots__ = ("began_ns", "failed", "fresh", "left", "since_ns")

    def __init__(self, time_ns: int, size: int, fresh: int) -> None:
        self.since_ns = time_ns
        self.began_ns: int | None = None
        self.left = size
        self.fresh = fresh
        self.failed: set[int] = set()


class Items:
    """The items of one array task.

    The journal tells when a launch began only where that was seen; else its first items began when it was placed.

    Args:
        family: Index of what the task has in common with others.
        length: Items; 0 where the journal's record of it is lost.
        runs: Told when items ran.

    Attributes:
        counts: Items by state.
        restored: Those that were DONE in an earlier session.
        ended_ns: When the last of those that ended did; 0 before.
        began_ns: When the first began to run, None before.
        arrivals: For launches that are over, when they began and how many items ran for the first time.
        failure: What was said of the first item that failed, or of the array task.
        verdict: State in which the array task ended.
    """

    def __init__(self, family: int, length: int, runs: Runs) -> None:
        self.family = family
        self.counts: Counter[State] = Counter({WAITING: length})
        self.restored = 0
        self.ended_ns = 0
        self.began_ns: int | None = None
        self.arrivals: list[tuple[int, int]] = []
        self.failure = ""
        self.verdict: State | None = None
        self._runs = runs
        self._launches: dict[int, _Launch] = {}
        self._tried = bytearray()
        """By item, how its last attempt failed; as long as need be."""

    def enter(self, state: State, items: Range | None, attempt: int, time_ns: int, detail: str) -> None:
        """Take one event of the array task or of some of its items."""
        if items is None:
            self._enter_whole(state, time_ns, detail)
        elif state is PLACED:
            self._place(items, attempt, time_ns)
        elif state is RUNNING:
            self._start(self._launch(items, attempt, time_ns), time_ns)
        elif state is DONE:
            launch = self._launch(items, attempt, time_ns)
            failed = sum(1 for index in launch.failed if items[0] <= index < items[1])
            self._end(launch, attempt, state, items[1] - items[0] - failed, time_ns)
        elif state is READY:
            self._give_back(items, attempt, time_ns)
        else:
            self._fail(state, items, attempt, time_ns, detail)

    def restore(self, items: Range | None) -> None:
        """Take items that were DONE in an earlier session; None are all that are left."""
        queued = self.counts[WAITING] + self.counts[READY]
        count = queued if items is None else items[1] - items[0]
        self._leave_queue(count, DONE)
        self.restored += count

    def open_runs(self) -> list[int]:
        """Return since when those launches run whose end is not known."""
        return [launch.since_ns for launch in self._launches.values() if launch.began_ns is not None]

    def open_arrivals(self) -> list[tuple[int, int]]:
        """Return the arrivals of launches that are not over."""
        return [(each.began_ns, each.fresh) for each in self._launches.values() if each.began_ns is not None]

    def _enter_whole(self, state: State, time_ns: int, detail: str) -> None:
        if state is READY:
            self._move(self.counts[WAITING], WAITING, READY)
        elif state.is_final:
            for attempt, launch in list(self._launches.items()):
                self._end(launch, attempt, state, launch.left, time_ns)
            for before in _FROM_THE_START:
                self._move(self.counts[before], before, state)
            self.verdict = state
            self.ended_ns = max(self.ended_ns, time_ns)
            self.failure = detail or self.failure
            self._tried = bytearray()

    def _place(self, items: Range, attempt: int, time_ns: int) -> None:
        first, stop = items
        tried = self._tried[first:stop]
        self._tried[first:stop] = bytes(len(tried))
        again = 0
        for state, code in _TRIED.items():
            again += tried.count(code)
            self._move(tried.count(code), state, PLACED)
        self._leave_queue(stop - first - again, PLACED)
        self._launches[attempt] = _Launch(time_ns, stop - first, stop - first - again)

    def _launch(self, items: Range, attempt: int, time_ns: int) -> _Launch:
        """Return a launch; one whose record is lost was placed just now."""
        if attempt not in self._launches:
            self._place(items, attempt, time_ns)
        return self._launches[attempt]

    def _start(self, launch: _Launch, time_ns: int) -> None:
        if launch.began_ns is None:
            self._move(launch.left, PLACED, RUNNING)
            launch.began_ns = launch.since_ns = time_ns
            self.began_ns = time_ns if self.began_ns is None else min(self.began_ns, time_ns)

    def _end(self, launch: _Launch, attempt: int, state: State, count: int, time_ns: int) -> None:
        """Take the end of some items of a launch; READY is none, they were given back."""
        if state in (DONE, FAILED):  # so they ran, even if nobody saw the start
            self._start(launch, launch.since_ns)
        if launch.began_ns is not None and state is not READY:
            self._runs.ran(launch.since_ns, max(launch.since_ns, time_ns), count)
            launch.since_ns = max(launch.since_ns, time_ns)
        self._move(count, PLACED if launch.began_ns is None else RUNNING, state)
        if state is not READY:
            self.ended_ns = max(self.ended_ns, time_ns)
        launch.left -= count
        if launch.left <= 0:
            self._launches.pop(attempt, None)
            if launch.began_ns is not None:
                self.arrivals.append((launch.began_ns, launch.fresh))

    def _give_back(self, items: Range, attempt: int, time_ns: int) -> None:
        launch = self._launch(items, attempt, time_ns)
        count = sum(1 for index in range(*items) if index not in launch.failed)
        launch.fresh = max(0, launch.fresh - count)
        self._end(launch, attempt, READY, count, time_ns)

    def _fail(self, state: State, items: Range, attempt: int, time_ns: int, detail: str) -> None:
        launch = self._launch(items, attempt, time_ns)
        fresh = [index for index in range(*items) if index not in launch.failed]
        launch.failed.update(fresh)
        if state in _TRIED and fresh:
            if len(self._tried) <= fresh[-1]:
                self._tried.extend(bytes(fresh[-1] + 1 - len(self._tried)))
            for index in fresh:
                self._tried[index] = _TRIED[state]
            self.failure = self.failure or f"item {fresh[0]}: {detail}"
        self._end(launch, attempt, state, len(fresh), time_ns)

    def _leave_queue(self, count: int, state: State) -> None:
        """Let items enter a state that were READY, or WAITING where that they became READY was not told."""
        ready = min(count, self.counts[READY])
        self._move(ready, READY, state)
        self._move(count - ready, WAITING, state)

    def _move(self, count: int, before: State, after: State) -> None:
        self.counts[before] -= count
        self.counts[after] += count
