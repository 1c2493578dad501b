"""Heterogeneity width: how many types of tasks are running at the same time."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, chain, compress, islice, pairwise
from operator import gt, sub
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MAX_POINTS = 500
_COMPACT_FROM = 1 << 17

Stretches = tuple["array[int]", "array[int]"]
"""Starts and ends of half-open stretches of time that do not overlap, ascending."""


class Presence:
    """When at least one of some tasks was running. Overlapping times are merged, so it does not grow with the tasks."""

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")
        self._compact_from = _COMPACT_FROM

    def add(self, starts: Iterable[int], ends: Iterable[int]) -> None:
        """Take the times at which tasks ran, in any order; no end is before its start."""
        self._starts.extend(starts)
        self._ends.extend(ends)
        if len(self._starts) > self._compact_from:
            self._starts, self._ends = self.stretches()
            self._compact_from = max(_COMPACT_FROM, 2 * len(self._starts))

    def stretches(self, starts: Iterable[int] = (), ends: Iterable[int] = ()) -> Stretches:
        """Return the merged times, with those of further tasks that are only looked at."""
        began = sorted(chain(self._starts, starts))
        ended = sorted(chain(self._ends, ends))
        if not began:
            return array("q"), array("q")
        # Nothing runs between the i-th end and the next start where that start comes later: as many ended as began.
        is_gap = list(map(gt, islice(began, 1, None), ended))
        return array("q", compress(began, chain((True,), is_gap))), array("q", compress(ended, chain(is_gap, (True,))))


class Width(NamedTuple):
    """How many types were running at the same time.

    Attributes:
        peak: At most, exactly.
        mean: On average over time, exactly.
        step_ns: Length of each point of the series; the last may be shorter.
        means: On average over each point's time.
        peaks: At most in each point's time.
    """

    peak: int
    mean: float
    step_ns: int
    means: list[float]
    peaks: list[int]


def width_of(types: Sequence[Stretches], length_ns: int) -> Width | None:
    """Return the width over a span of time, or None when it has no length.

    Args:
        types: When tasks of each type were running, counted from the beginning of the span.
        length_ns: Of the span.
    """
    if length_ns <= 0:
        return None
    step_ns = -(-length_ns // MAX_POINTS)
    borders = [*range(0, length_ns, step_ns), length_ns]
    covered = [sum(column) for column in zip(*(_covered(*each, borders) for each in types), strict=True)]
    covered = covered or [0] * len(borders)
    means = [
        (after - before) / (stop - start)
        for (before, after), (start, stop) in zip(_pairs(covered), _pairs(borders), strict=True)
    ]
    peaks = _peaks(types, borders)
    return Width(max(peaks), covered[-1] / length_ns, step_ns, means, peaks)


def _covered(starts: array[int], ends: array[int], moments: Sequence[int]) -> list[int]:
    """Return how much of the time before each moment is covered by stretches."""
    before = list(accumulate(map(sub, ends, starts), initial=0))
    found = []
    for moment in moments:
        at = bisect_right(starts, moment) - 1
        found.append(before[at] + min(moment, ends[at]) - starts[at] if at >= 0 else 0)
    return found


def _peaks(types: Sequence[Stretches], borders: Sequence[int]) -> list[int]:
    """Return how many types there were at most from each border up to the next."""
    # A start is an odd number, an end an even one: of those at the same moment, ends come first.
    steps = sorted(
        chain.from_iterable(chain((2 * at + 1 for at in starts), (2 * at for at in ends)) for starts, ends in types)
    )
    counts = list(accumulate((1 if step & 1 else -1 for step in steps), initial=0))
    peaks = []
    for start, stop in _pairs(borders):
        first, last = bisect_right(steps, 2 * start + 1), bisect_left(steps, 2 * stop)
        peaks.append(max(counts[first : last + 1]))
    return peaks


def _pairs(values: Sequence[int]) -> list[tuple[int, int]]:
    return list(pairwise(values))
