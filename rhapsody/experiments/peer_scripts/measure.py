"""How every system is measured: the same clock, the same warm-up, the same report.

The scripts beside this file import it as `measure`, since they run where `rhapsody` is not installed.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import members
else:  # a script beside this file has imported it
    import members

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

Handle = TypeVar("Handle")

WARM_UP_TASKS_PER_WORKER = 2

PROGRAM = "/bin/true"
"""What mode `executables` starts."""


@dataclass(frozen=True)
class Order:
    """What one run is to do; it travels as JSON in the script's only argument.

    Attributes:
        mode: What is measured: `functions`, `executables`, `map`, `latency`, `memory`, `loop-block`.
        n: How many tasks, or items.
        workers: Worker processes of the system.
        backend: Which of the system's own backends.
        journal: Whether the journal is written; other systems have none.
        scratch: Folder for whatever the system writes.
        runs_dir: Folder for journals: on the file system that results go to.
        result: File for the report.
        allocation: File with the nodes to use, as JSON; empty for this node.
    """

    mode: str
    n: int
    workers: int
    backend: str
    journal: bool
    scratch: str
    runs_dir: str
    result: str
    allocation: str = ""

    def as_json(self) -> str:
        """Return the text that `read_order` reads."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Report:
    """What one run found.

    Attributes:
        metrics: Value by name of the metric.
        version: Of the measured system.
        waiting: How tasks were submitted and waited for, for people.
    """

    metrics: dict[str, float]
    version: str
    waiting: str


@dataclass
class Meter:
    """Wall clock and CPU time of a stretch of code.

    Attributes:
        wall_s: Seconds that passed.
        main_cpu_s: CPU seconds of this process.
        workers_cpu_s: CPU seconds of all other processes of the run.
        mark: By which those are known.
    """

    wall_s: float = 0.0
    main_cpu_s: float = 0.0
    workers_cpu_s: float = 0.0
    mark: str = field(default_factory=lambda: os.environ[members.MARK_VARIABLE])

    def start(self) -> None:
        """Start the clocks, the cheapest to read last."""
        self.workers_cpu_s = -members.cpu_s_of_children(self.mark)
        self.main_cpu_s = -_own_cpu_s()
        self.wall_s = -time.perf_counter()

    def stop(self) -> None:
        """Stop the clocks in the opposite order, so that reading them is not measured."""
        self.wall_s += time.perf_counter()
        self.main_cpu_s += _own_cpu_s()
        self.workers_cpu_s += members.cpu_s_of_children(self.mark)

    def metrics(self, n: int, what: str = "task") -> dict[str, float]:
        """Return rate and CPU time per task, or per whatever was counted."""
        return {
            f"{what}s_per_s": n / self.wall_s,
            f"main_cpu_us_per_{what}": self.main_cpu_s / n * 1e6,
            f"workers_cpu_us_per_{what}": self.workers_cpu_s / n * 1e6,
        }


def read_order() -> Order:
    """Return the order that this script was started with."""
    return Order(**json.loads(sys.argv[1]))


def write_report(order: Order, metrics: dict[str, float], *, version: str, waiting: str) -> None:
    """Hand the report to whoever started this script."""
    if order.mode == "latency":
        waiting = "one at a time: make one, submit it, wait for that one"
    result = Path(order.result)
    unfinished = result.with_suffix(".part")  # who waits for it finds it whole
    unfinished.write_text(json.dumps(asdict(Report(metrics, version, waiting))))
    unfinished.rename(result)


def latency_metrics(samples_s: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile of durations, in microseconds."""
    ordered = sorted(samples_s)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"latency_median_us": statistics.median(ordered) * 1e6, "latency_p99_us": p99 * 1e6}


def drive_futures(
    order: Order,
    submit: Callable[[], Handle],
    *,
    wait_one: Callable[[Handle], object],
    wait_all: Callable[[list[Handle]], object],
    values_of: Callable[[list[Handle]], list[Any]],
) -> dict[str, float]:
    """Measure a system that takes one task per call and gives something to wait for.

    Args:
        order: Mode `functions` or `latency`.
        submit: Submits one no-op.
        wait_one: Returns when that one has ended.
        wait_all: Returns when all given have ended.
        values_of: Returns values or exit codes; called after the clocks were stopped.
    """
    wait_all([submit() for _ in range(WARM_UP_TASKS_PER_WORKER * order.workers)])
    if order.mode == "latency":
        samples_s = []
        for _ in range(order.n):
            before = time.perf_counter()
            wait_one(submit())
            samples_s.append(time.perf_counter() - before)
        return latency_metrics(samples_s)
    meter = Meter()
    meter.start()
    handles = [submit() for _ in range(order.n)]
    wait_all(handles)
    meter.stop()
    require_values(order, values_of(handles))
    return meter.metrics(order.n)


async def drive_batches(
    order: Order,
    make: Callable[[], Handle],
    *,
    run_one: Callable[[Handle], Awaitable[object]],
    run_all: Callable[[list[Handle]], Awaitable[object]],
    values_of: Callable[[list[Handle]], list[Any]],
) -> dict[str, float]:
    """Measure a system on asyncio that takes a list of task objects.

    Args:
        order: Mode `functions`, `executables` or `latency`.
        make: Makes one task object.
        run_one: Submits a task and returns when it has ended.
        run_all: Submits all given and returns when all have ended.
        values_of: Returns values or exit codes; called after the clocks were stopped.
    """
    await run_all([make() for _ in range(WARM_UP_TASKS_PER_WORKER * order.workers)])
    if order.mode == "latency":
        samples_s = []
        for _ in range(order.n):
            before = time.perf_counter()
            await run_one(make())
            samples_s.append(time.perf_counter() - before)
        return latency_metrics(samples_s)
    meter = Meter()
    meter.start()
    tasks = [make() for _ in range(order.n)]
    await run_all(tasks)
    meter.stop()
    require_values(order, values_of(tasks))
    return meter.metrics(order.n, "executable" if order.mode == "executables" else "task")


def require_values(order: Order, values: list[Any]) -> None:
    """Refuse a run in which not every no-op has returned 1, or not every program has exited with 0."""
    expected = 0 if order.mode == "executables" else 1
    wrong = [value for value in values if value != expected]
    if wrong or len(values) != order.n:
        raise RuntimeError(f"{len(values)} of {order.n} ended, {len(wrong)} without {expected!r} but e.g. {wrong[:3]}")


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
