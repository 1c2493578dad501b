"""No-ops over the nodes of an allocation: one point of the scaling experiment."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

import rhapsody
from rhapsody import ComputeTask, Session
from rhapsody.model.allocation import Allocation
from rhapsody.telemetry.metrics import measure as measure_run

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure

if TYPE_CHECKING:
    from rhapsody.telemetry.metrics import Measured


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def warm_up() -> int:
    """Do as little, under a name by which the journal tells it from what is measured."""
    return 1


async def run(order: measure.Order, allocation: Allocation) -> tuple[dict[str, float], Path]:
    """Measure one session; return its metrics and its run folder."""
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


def journaled(found: Measured, overhead_s: float, cores: int) -> dict[str, float]:
    """Return what only the journal knows: utilization, and the mean time that tasks spent in each stage.

    Args:
        found: Metrics of the run, warm-up included.
        overhead_s: How long the tasks took, warm-up not included.
        cores: That tasks could get, over all nodes.
    """
    busy_core_s = sum(family.cores * family.busy_ns for family in found.families if family.kind == "task") / 1e9
    stages = {
        f"{name}_ms": stage.mean_s * 1e3 for name, stage in found.stages.items() if stage and stage.mean_s is not None
    }
    return {"core_utilization": busy_core_s / (overhead_s * cores), **stages}


def main() -> None:
    """Measure and report."""
    order = measure.read_order()
    allocation = Allocation.model_validate_json(Path(order.allocation).read_text())
    metrics, run_dir = asyncio.run(run(order, allocation))
    metrics |= journaled(measure_run(run_dir), metrics["overhead_s"], allocation.usable_cores)
    waiting = "Session.submit(list of all), Session.wait"
    measure.write_report(order, metrics, version=rhapsody.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
