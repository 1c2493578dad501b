"""What earlier sessions of a run did of one array task."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER, LAUNCHED, RUNNING, DONE, LOST, ENDED = range(6)
"""How far a task or an item was: ENDED failed or was cancelled, of LOST nobody knows whether it ran."""

_DONE_UNLESS_FAILED = bytes(state if state == ENDED else DONE for state in range(256))
_ENDED_UNLESS_DONE = bytes(state if state == DONE else ENDED for state in range(256))
_LOST_IF_NEVER = bytes(LOST if state == NEVER else state for state in range(256))
_LOST_IF_LAUNCHED = bytes(LOST if state in (LAUNCHED, RUNNING) else state for state in range(256))
_LOST_IF_RUNNING = bytes({LAUNCHED: NEVER, RUNNING: LOST}.get(state, state) for state in range(256))


class Stretch(NamedTuple):
    """Items that were done together, with the place of their list of values.

    Attributes:
        start: The first.
        stop: Behind the last.
        frame: Number of the frame of kept results; 0: all values are None; below: they are not in the journal.
        offset: Position in the list of the value of `start`.
    """

    start: int
    stop: int
    frame: int
    offset: int


class ItemLog:
    """How far each item of an array task was.

    Attributes:
        states: One byte for each item.
    """

    def __init__(self, length: int) -> None:
        self.states = bytearray(length)
        self._done: list[Stretch] = []

    def enter(self, state: int, items: tuple[int, int]) -> None:
        """Note that a range of items entered a state other than DONE."""
        start, stop = self._clip(items)
        if state == ENDED:  # what was done, and could not be restored, did not run again
            self.states[start:stop] = self.states[start:stop].translate(_ENDED_UNLESS_DONE)
        else:
            self.states[start:stop] = bytes([state]) * (stop - start)

    def done(self, items: tuple[int, int], frame: int, offset: int = 0) -> None:
        """Note that a range of items entered DONE, but for those in it that failed before."""
        start, stop = self._clip(items)
        self.states[start:stop] = self.states[start:stop].translate(_DONE_UNLESS_FAILED)
        self._done.append(Stretch(start, stop, frame, offset))

    def salvaged(self, items: tuple[int, int], frame: int) -> None:
        """Note that a range of items ended, of which the journal may know a part."""
        start, stop = self._clip(items)
        for state in (LAUNCHED, RUNNING, LOST):
            for first, last in list(self._runs_of(state, start, stop, bytearray(len(self.states)))):
                self.done((first, last), frame, first - items[0])

    def heard(self, state: int, items: tuple[int, int]) -> None:
        """Note that items of a range, of which the journal has no end, are in a state other than DONE."""
        start, stop = self._clip(items)
        after = bytes(state if before in (LAUNCHED, RUNNING, LOST) else before for before in range(256))
        self.states[start:stop] = self.states[start:stop].translate(after)

    def restored(self, items: tuple[int, int], frame: int, offset: int) -> None:
        """Note that a range of items was restored."""
        start, stop = self._clip(items)
        self.states[start:stop] = bytes([DONE]) * (stop - start)
        self._done.append(Stretch(start, stop, frame, offset))

    def doubt(self) -> None:
        """Take note that records are missing: what had not started may have."""
        self.states = self.states.translate(_LOST_IF_NEVER)

    def settle(self, *, complete: bool) -> None:
        """Take note that the session is over: what was launched and not heard of never started, or is lost."""
        self.states = self.states.translate(_LOST_IF_RUNNING if complete else _LOST_IF_LAUNCHED)

    def stretches(self) -> list[Stretch]:
        """Return what is done, each item once, in the order of the items."""
        taken = bytearray(len(self.states))
        found: list[Stretch] = []
        for start, stop, frame, offset in reversed(self._done):  # what was tried again is done in a later one
            for first, last in self._runs_of(DONE, start, stop, taken):
                found.append(Stretch(first, last, frame, offset + first - start))
                taken[first:last] = b"\1" * (last - first)
        return sorted(found)

    def lost(self) -> list[tuple[int, int]]:
        """Return the ranges of items of which nobody knows whether they ran."""
        return list(self._runs_of(LOST, 0, len(self.states), bytearray(len(self.states))))

    def _runs_of(self, state: int, start: int, stop: int, taken: bytearray) -> Iterator[tuple[int, int]]:
        """Yield the ranges of items in a state that are not taken."""
        states, wanted = self.states, bytes([state])
        while start < stop:
            first = states.find(wanted, start, stop)
            if first < 0:
                return
            last = first
            while last < stop and states[last] == state and not taken[last]:
                last += 1
            if last > first:
                yield first, last
            start = max(last, first + 1)

    def _clip(self, items: tuple[int, int]) -> tuple[int, int]:
        return items[0], min(items[1], len(self.states))
