"""No-ops and programs through rhapsody-py, whose package is called `rhapsody` too: it has an environment of its own."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import inside_dragon, measure
else:
    import inside_dragon
    import measure

OVER_DRAGON = "rhapsody-py-dragon"


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


async def run(order: measure.Order) -> dict[str, float]:
    """Measure what the order says."""
    peer: Any = importlib.import_module("rhapsody")
    execution: Any = importlib.import_module("rhapsody.backends.execution")
    if order.backend == "noop":
        backend = await execution.NoopExecutionBackend()
    elif order.backend == OVER_DRAGON:
        workers = inside_dragon.batch_workers(order.workers)
        backend = await execution.DragonExecutionBackend(batch_kwargs={"workers_per_node": workers})
    else:
        backend = await execution.ConcurrentExecutionBackend(ProcessPoolExecutor(max_workers=order.workers))

    def make() -> Any:  # noqa: ANN401 - the peer's own task class
        if order.mode == "executables":
            return peer.ComputeTask(executable=measure.PROGRAM)
        return peer.ComputeTask(function=noop)

    async with peer.Session([backend], work_dir=order.scratch) as session:

        async def run_one(task: Any) -> None:  # noqa: ANN401
            await session.submit_tasks([task])
            await task

        async def run_all(tasks: list[Any]) -> None:
            await asyncio.wait(await session.submit_tasks(tasks))

        return await measure.drive_batches(order, make, run_one=run_one, run_all=run_all, values_of=values_of)


def values_of(tasks: list[Any]) -> list[Any]:
    """Return values of functions and exit codes of programs; of failed tasks, why."""
    return [_value_of(task) if task.state == "DONE" else task.exception or task.stderr for task in tasks]


def _value_of(task: Any) -> Any:  # noqa: ANN401 - the peer's own task class
    return task.exit_code if task.executable else task.return_value


def main() -> None:
    """Measure and report."""
    order = measure.read_order()
    if order.backend == OVER_DRAGON:
        inside_dragon.take_dragons_processes()
    metrics = asyncio.run(run(order))
    waiting = "Session.submit_tasks(list of all), asyncio.wait(all futures)"
    if order.backend == OVER_DRAGON:
        waiting += f"; workers: {inside_dragon.batch_workers(order.workers)}, Batch takes half of the CPUs at most"
    version = importlib.metadata.version("rhapsody-py")
    measure.write_report(order, metrics, version=version, waiting=waiting)


if __name__ == "__main__":
    main()
