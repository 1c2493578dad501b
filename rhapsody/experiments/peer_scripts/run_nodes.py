"""No-ops over the nodes of an allocation: one point of the scaling experiment."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import rhapsody
from rhapsody import ComputeTask, Session
from rhapsody.model.allocation import Allocation
from rhapsody.telemetry.metrics import Metrics
from rhapsody.telemetry.reader import JournalReader, Newcomers

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure

if TYPE_CHECKING:
    from rhapsody.telemetry.metrics import Measured

WARM_UP_S = 0.05


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def warm_up() -> None:
    """Keep a core for so long that all others get such a task too; the journal knows it by its name."""
    time.sleep(WARM_UP_S)


async def run(order: measure.Order, allocation: Allocation) -> tuple[dict[str, float], Path]:
    """Measure one session; return its metrics and its run folder."""
    os.chdir(order.runs_dir)  # as all nodes see it
    opening_s = -time.perf_counter()
    async with Session(
        backend=order.backend, allocation=allocation, journal=order.journal, runs=order.runs_dir, name="bench"
    ) as session:
        opening_s += time.perf_counter()
        await session.submit([ComputeTask(warm_up) for _ in range(measure.WARM_UP_TASKS_PER_WORKER * order.workers)])
        await session.wait()
        meter = measure.Meter()
        meter.start()
        tasks = [ComputeTask(noop) for _ in range(order.n)]
        await session.submit(tasks)
        await session.wait(tasks)
        meter.stop()
        measure.require_values(order, [task.return_value if task.state == "DONE" else task.failure for task in tasks])
        run_dir = session.run_dir
    metrics = meter.metrics(order.n)
    del metrics["workers_cpu_us_per_task"]  # those of other nodes are not seen from here
    return {**metrics, "overhead_s": meter.wall_s, "opening_s": opening_s}, run_dir


def journaled(run_dir: Path, warm_ups: int, core_s: float) -> dict[str, float]:
    """Return what only the journal knows: utilization, and the mean time that a task spent in each stage.

    Args:
        run_dir: Run folder of the session.
        warm_ups: Tasks that came first, and are left out.
        core_s: Cores that tasks could get, over all nodes, times the seconds that they took.
    """
    before, after = figures_around(run_dir, warm_ups)
    busy_core_s = sum(family.cores * family.busy_ns for family in after.families if family.label == noop.__name__) / 1e9
    found = {"core_utilization": busy_core_s / core_s}
    for name, stage in after.stages.items():
        earlier = before.stages[name]
        if stage is not None and earlier is not None and stage.tasks > earlier.tasks:
            total_s = stage.tasks * (stage.mean_s or 0) - earlier.tasks * (earlier.mean_s or 0)
            found[f"{name}_ms"] = max(0.0, total_s) * 1e3 / (stage.tasks - earlier.tasks)
    return found


def figures_around(run_dir: Path, warm_ups: int) -> tuple[Measured, Measured]:
    """Return the metrics of the warm-up, which had ended before anything else was submitted, and of all."""
    reader = JournalReader(run_dir)
    metrics = Metrics(reader.uid_of)
    before = metrics.result()
    accepted = 0
    for found in reader:
        if isinstance(found, Newcomers):
            if accepted == warm_ups:
                before = metrics.result()
            accepted += len(found.numbers)
        metrics.take(found)
    return before, metrics.result()


def main() -> None:
    """Measure and report."""
    order = measure.read_order()
    allocation = Allocation.model_validate_json(Path(order.allocation).read_text())
    metrics, run_dir = asyncio.run(run(order, allocation))
    core_s = metrics["overhead_s"] * allocation.usable_cores
    metrics |= journaled(run_dir, measure.WARM_UP_TASKS_PER_WORKER * order.workers, core_s)
    waiting = "Session.submit(list of all), Session.wait"
    measure.write_report(order, metrics, version=rhapsody.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
