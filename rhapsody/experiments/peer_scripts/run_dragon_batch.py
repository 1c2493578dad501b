"""No-ops through `dragon.workflows.batch.Batch`, Dragon's own scheduler of tasks."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import inside_dragon, measure
else:
    import inside_dragon
    import measure


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def value_of(task: Any) -> Any:  # noqa: ANN401 - Batch's own class
    """Return a task's value, once it is there."""
    return task.get()


def values_of(tasks: list[Any]) -> list[Any]:
    """Return the values of all, once they are there."""
    return [task.get() for task in tasks]


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    inside_dragon.take_dragons_processes()
    module: Any = importlib.import_module("dragon.workflows.batch")
    workers = inside_dragon.batch_workers(order.workers)
    batch = module.Batch(workers_per_node=workers)
    metrics = measure.drive_futures(
        order,
        functools.partial(batch.function, noop),
        wait_one=value_of,
        wait_all=values_of,
        values_of=values_of,
    )
    waiting = f"Batch.function() per task, get() of each; workers: {workers}, it takes half of the CPUs at most"
    measure.write_report(order, metrics, version=importlib.metadata.version("dragonhpc"), waiting=waiting)
    batch.join()


if __name__ == "__main__":
    main()
