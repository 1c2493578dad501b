"""What a fold over a journal remembers of each task: 14 bytes, in columns that are filled and read by slices."""

from __future__ import annotations

from array import array
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Where = slice | Sequence[int]

_SPARE = 4_096
"""Rows that are made in advance at least."""


class Part(NamedTuple):
    """Tasks that have all this in common.

    Attributes:
        before: Their state before, as a code.
        family: Index of their family.
        is_first: Whether this is their first attempt.
        times: When each entered its state.
        before_times: When each had entered the state before.
    """

    before: int
    family: int
    is_first: bool
    times: array[int]
    before_times: array[int]


class Rows:
    """State, time of the last change, family and cause of failure of tasks, by their numbers.

    Numbers may begin anywhere and have gaps; memory goes by the distance between the lowest and the highest.

    Attributes:
        base: Number of the first row.
        states: Codes; 0 where there is no task.
        since: When each task entered its state.
        families: Index of each task's family.
        causes: Code of why a task failed.
    """

    def __init__(self) -> None:
        self.base = 0
        self.states = bytearray()
        self.since = array("q")
        self.families = array("I")
        self.causes = bytearray()

    def locate(self, numbers: Sequence[int]) -> Where:
        """Return where the rows of tasks are, of which there is at least one; they are made if need be."""
        is_range = isinstance(numbers, range)
        first, last = (numbers[0], numbers[-1]) if is_range else (min(numbers), max(numbers))
        if first < self.base or last >= self.base + len(self.states):
            self._stretch(first, last)
        if is_range:
            return slice(first - self.base, last - self.base + 1)
        return numbers if not self.base else [number - self.base for number in numbers]

    def assign(self, numbers: Sequence[int], families: array[int]) -> None:
        """Say what families new tasks are of."""
        where = self.locate(numbers)
        if isinstance(where, slice):
            self.families[where] = families
        else:
            for at, family in zip(where, families, strict=True):
                self.families[at] = family

    def family_of(self, number: int) -> int:
        """Return the index of a task's family, 0 if nothing is known of the task."""
        at = number - self.base
        return self.families[at] if 0 <= at < len(self.families) else 0

    def move(self, numbers: Sequence[int], state: int, times: array[int], firsts: bytes) -> list[Part]:
        """Note that tasks entered a state; return them by what they have in common, mostly in one part.

        Args:
            numbers: Of the tasks; at least one.
            state: Its code.
            times: When each entered it.
            firsts: For each, whether this is the first attempt.
        """
        if len(numbers) == 1 and 0 <= (at := numbers[0] - self.base) < len(self.states):  # as in frames of one task
            part = Part(self.states[at], self.families[at], bool(firsts[0]), times, self.since[at : at + 1])
            self.states[at] = state
            self.since[at] = times[0]
            return [part]
        where = self.locate(numbers)
        looked = self._look(where)
        self.enter(where, state, times)
        return _parts_of(looked, firsts, times)

    def enter(self, where: Where, state: int, times: array[int]) -> None:
        """Note that tasks entered a state."""
        if isinstance(where, slice):
            self.states[where] = bytes((state,)) * len(times)
            self.since[where] = times
            return
        states, since = self.states, self.since
        for at, time_ns in zip(where, times, strict=True):
            states[at] = state
            since[at] = time_ns

    def forget(self, number: int) -> None:
        """Let there be no such task."""
        at = number - self.base
        if 0 <= at < len(self.states):
            self.states[at] = 0

    def in_state(self, state: int) -> Iterator[int]:
        """Yield the positions of the tasks in a state."""
        at = self.states.find(state)
        while at >= 0:
            yield at
            at = self.states.find(state, at + 1)

    def _look(self, where: Where) -> tuple[bytearray, array[int], array[int]]:
        """Return states, families and times."""
        if isinstance(where, slice):
            return self.states[where], self.families[where], self.since[where]
        pick = itemgetter(*where, where[0])  # of a single one it would give no tuple
        return (
            bytearray(pick(self.states)[:-1]),
            array("I", pick(self.families)[:-1]),
            array("q", pick(self.since)[:-1]),
        )

    def _stretch(self, first: int, last: int) -> None:
        """Make rows up to these numbers, and as many again in advance, so that this does not happen often."""
        if not self.states:
            self.base = first if first >= _SPARE else 0
        if (missing := self.base - first) > 0:
            spare = min(first, max(_SPARE, len(self.states)))
            self._grow(missing + spare, before=True)
            self.base = first - spare
        if (missing := last + 1 - self.base - len(self.states)) > 0:
            self._grow(missing + max(_SPARE, len(self.states) // 8), before=False)

    def _grow(self, count: int, *, before: bool) -> None:
        for column in (self.states, self.causes):
            at = 0 if before else len(column)
            column[at:at] = bytes(count)
        for values in (self.since, self.families):
            at = 0 if before else len(values)
            values[at:at] = array(values.typecode, (0,)) * count


def _parts_of(looked: tuple[bytearray, array[int], array[int]], firsts: bytes, times: array[int]) -> list[Part]:
    """Return tasks by what they have in common; mostly that is one part.

    Args:
        looked: The tasks' states, families and times before, as from `Rows`.
        firsts: For each, whether this is the first attempt.
        times: When each entered the new state.
    """
    states, families, before = looked
    columns: tuple[bytearray, array[int], bytes] = (states, families, firsts)
    if all(column.count(column[0]) == len(times) for column in columns):
        return [Part(states[0], families[0], bool(firsts[0]), times, before)]
    parts: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
    for key, time_ns, before_ns in zip(zip(*columns, strict=True), times, before, strict=True):
        part = parts.get(key)
        if part is None:
            part = parts[key] = [], []
        part[0].append(time_ns)
        part[1].append(before_ns)
    return [
        Part(state, family, bool(first), array("q", entered), array("q", left))
        for (state, family, first), (entered, left) in parts.items()
    ]
