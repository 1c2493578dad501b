"""Rates over time: decisions made by models, tasks that arrive, and how far these follow those."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WINDOWS = 200
_LEAST_OVERLAP = 8
"""Windows that two series must share for their correlation to mean anything."""


def window_for(length_ns: int) -> int:
    """Return the width of a window: 1, 2 or 5 times a power of ten nanoseconds, so that there are at most 200."""
    wanted = max(1, -(-length_ns // _WINDOWS))
    power: int = 10 ** (len(str(wanted)) - 1)
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= wanted)


def counts_in(
    windows: int, window_ns: int, moments: Iterable[int], together: Iterable[tuple[int, int]] = ()
) -> list[int]:
    """Return how many of something fall into each window `(t - w, t]`; the first has its beginning, too.

    Args:
        windows: How many there are.
        window_ns: Width of each.
        moments: When each was, counted from the beginning of the first window.
        together: When several were at once, and how many.
    """
    found = Counter((moment - 1) // window_ns for moment in moments)
    for moment, number in together:
        found[(moment - 1) // window_ns] += number
    found[0] += sum(found.pop(at) for at in [at for at in found if at < 0])  # the beginning; clocks may differ a bit
    return [found[at] for at in range(windows)]


def overlap_of(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return the share of windows in which both have something; None without windows."""
    return sum(1 for one, other in zip(first, second, strict=True) if one and other) / len(first) if first else None


def best_shift(leading: Sequence[int], following: Sequence[int]) -> tuple[int, float] | None:
    """Return by how many windows one series follows another, and how well: where their correlation is greatest.

    Shifts of up to a quarter of the windows are tried, in both directions; of equal ones the smallest counts. None if
    the series are too short, or one does not change.
    """
    most = len(leading) // 4
    best: tuple[int, float] | None = None
    for shift in sorted(range(-most, most + 1), key=lambda each: (abs(each), -each)):
        one = leading[max(0, -shift) : len(leading) - max(0, shift)]
        other = following[max(0, shift) : len(following) - max(0, -shift)]
        found = _correlation(one, other) if len(one) >= _LEAST_OVERLAP else None
        if found is not None and (best is None or found > best[1] + 1e-9):
            best = shift, found
    return best


def _correlation(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return Pearson's coefficient, None where one of them does not change."""
    size = len(first)
    mean_1, mean_2 = sum(first) / size, sum(second) / size
    spread_1 = sum((one - mean_1) ** 2 for one in first)
    spread_2 = sum((one - mean_2) ** 2 for one in second)
    if spread_1 <= 0 or spread_2 <= 0:
        return None
    together = sum((one - mean_1) * (other - mean_2) for one, other in zip(first, second, strict=True))
    return together / sqrt(spread_1 * spread_2)
