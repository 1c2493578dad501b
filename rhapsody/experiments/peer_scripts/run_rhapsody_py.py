"""No-ops and programs through rhapsody-py, whose package is called `rhapsody` too: it has an environment of its own."""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure


def noop() -> None:
    """Do nothing."""


async def run(order: measure.Order) -> dict[str, float]:
    """Measure what the order says."""
    peer: Any = importlib.import_module("rhapsody")
    execution: Any = importlib.import_module("rhapsody.backends.execution")
    if order.backend == "noop":
        backend = await execution.NoopExecutionBackend()
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

        return await measure.drive_batches(order, make, run_one=run_one, run_all=run_all, check=check)


def check(task: Any) -> None:  # noqa: ANN401 - the peer's own task class
    """Raise if the task has failed."""
    if task.state != "DONE":
        raise RuntimeError(f"{task.uid} ended {task.state}: {task.exception or task.stderr}")


def main() -> None:
    """Measure and report."""
    order = measure.read_order()
    metrics = asyncio.run(run(order))
    waiting = "Session.submit_tasks(list of all), asyncio.wait(all futures)"
    version = importlib.metadata.version("rhapsody-py")
    measure.write_report(order, metrics, version=version, waiting=waiting)


if __name__ == "__main__":
    main()
