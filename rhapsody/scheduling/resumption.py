"""What earlier sessions of a run have done, looked up for a submission."""

from __future__ import annotations

import asyncio
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.abc import Edges, EventSink, History, Recalled, RecalledItems
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


def take_over(
    recalled: Sequence[tuple[Task, Recalled]], items: dict[int, RecalledItems], sink: EventSink, now: int
) -> tuple[list[Task], list[tuple[Task, Recalled]]]:
    """Give tasks what earlier sessions know of them, and record it.

    Args:
        recalled: Tasks that were just accepted, with what is known of each.
        items: Gets, by number, the items of array tasks that do not run.
        sink: Told of what is done.
        now: When.

    Returns:
        Tasks that are done, and those that end without running since nobody knows how they ended.
    """
    rows: list[tuple[Task, Recalled]] = []
    done: list[Task] = []
    lost: list[tuple[Task, Recalled]] = []
    for task, known in recalled:
        if known.items is not None and isinstance(task, ArrayTask):
            items[task.number] = known.items
            rows.append((task, known))
            for each, failure in known.items.unknown:
                sink.items_entered(failure.state, task, each, now, failure.message)
            continue
        task.attempt, task.value, task.stdio = known.attempt, known.value, known.stdio
        if known.state is State.DONE:
            rows.append((task, known))
            done.append(task)
        elif known.state is not State.READY:
            lost.append((task, known))
    sink.restored(rows, now)
    return done, lost


def _dependencies_first(tasks: Sequence[Task], edges: Edges) -> Iterator[Task]:
    """Yield the tasks of a submission, those without dependencies in their order, then the others, each after those."""
    yield from (task for task in tasks if task not in edges)
    inner = {task: [needed for needed in edges[task] if needed in edges] for task in tasks if task in edges}
    yield from TopologicalSorter(inner).static_order()
