"""What earlier sessions of a run have done, looked up for a submission."""

from __future__ import annotations

import asyncio
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.abc import Edges, History, Recalled
    from rhapsody.model.task import Task

SLICE = 512
"""Tasks that are looked up before the event loop gets its turn: each may have a large value to be read."""


async def recall(history: History, tasks: Sequence[Task], edges: Edges) -> dict[Task, Recalled]:
    """Return what is known of the tasks of a submission.

    Args:
        history: Knows.
        tasks: All of the submission; they wait for each other in no circle.
        edges: What tasks depend on, those that depend on any.
    """
    found: dict[Task, Recalled] = {}
    ordered = tasks if not edges else list(_dependencies_first(tasks, edges))
    for first in range(0, len(ordered), SLICE):
        found |= history.recall(ordered[first : first + SLICE], edges)
        await asyncio.sleep(0)
    return found


def _dependencies_first(tasks: Sequence[Task], edges: Edges) -> Iterator[Task]:
    """Yield the tasks of a submission, those without dependencies in their order, then the others, each after those."""
    yield from (task for task in tasks if task not in edges)
    inner = {task: [needed for needed in edges[task] if needed in edges] for task in tasks if task in edges}
    yield from TopologicalSorter(inner).static_order()
