"""The smallest campaign that shows what flows: functions, a map, an executable, and results as they arrive.

rhapsody run examples/quickstart.py --cores 2
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from rhapsody import ComputeTask

if TYPE_CHECKING:
    from rhapsody import Completed, Session

DARTS = 200_000


def hits(seed: int) -> int:
    """Return how many of the darts thrown at a square hit the circle in it."""
    throw = random.Random(seed).random  # noqa: S311 - no secrets here
    return sum(throw() ** 2 + throw() ** 2 < 1 for _ in range(DARTS))


def estimate(counts: list[int]) -> float:
    """Return pi, as the darts have it."""
    return 4 * sum(counts) / (len(counts) * DARTS)


def compare(ours: float, printed: Completed) -> str:
    """Return how far the darts' pi is from the one that an executable printed."""
    theirs = float(printed.stdout)
    return f"pi is {ours:.5f} by darts and {theirs:.5f} by awk: they differ by {abs(ours - theirs):.5f}"


async def campaign(session: Session, args: list[str]) -> None:
    """Estimate pi in two ways, and compare them; the first of `args` may be how often darts are thrown."""
    throws = [ComputeTask(hits, args=(seed,)) for seed in range(int(args[0]) if args else 20)]
    by_darts = ComputeTask(estimate, args=(throws,))  # a task as an argument: its value flows in
    by_awk = ComputeTask(executable="awk", arguments=['BEGIN { printf "%.10f", atan2(0, -1) }'])
    verdict = ComputeTask(compare, args=(by_darts, by_awk))
    await session.submit([*throws, by_darts, by_awk, verdict])
    async for throw in session.as_completed(throws):
        print(f"{throw.uid}: {4 * throw.return_value / DARTS:.4f}")
    await verdict
    print(verdict.return_value)

    roots = await session.map(math.sqrt, range(100_000))  # one task, many items
    await roots
    print(f"the sum of {len(roots):,} square roots is {sum(roots.return_value):.2f}")
