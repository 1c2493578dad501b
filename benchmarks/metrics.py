"""What it costs to fold a run's journal into its metrics: seconds, CPU time and memory.

    python benchmarks/metrics.py [--folder DIR] [TASKS...]

The journal is written as a session writes it. It is folded in a fresh process, so that the memory is that of the fold
alone. Each figure is the median of five runs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.abc import Assignment
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.resources import Placement, Resources, Slot
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.metrics import measure

if TYPE_CHECKING:
    from collections.abc import Sequence

SLICE = 2_048
CHUNK = 256
WORKERS = 8
TASK_NS = 4_000
REPEATS = 5
WAYS = ("no-ops in order", "eight types, shuffled")
REQUESTS = [Resources(ranks=ranks, gpus_per_rank=gpus, mpi=True) for ranks in (1, 2, 3, 4) for gpus in (0, 1)]


class Cost(NamedTuple):
    """What one fold took."""

    wall_s: float
    cpu_s: float
    rss_mib: float


def noop() -> None:
    """Do nothing: what every task calls."""


def make_tasks(count: int, way: str) -> list[ComputeTask]:
    """Return tasks in the order in which they will run."""
    if way == WAYS[0]:
        return [ComputeTask(noop) for _ in range(count)]
    tasks = [ComputeTask(noop, resources=REQUESTS[at % len(REQUESTS)]) for at in range(count)]
    random.Random(0).shuffle(tasks)  # noqa: S311 - an order, no secret
    return tasks


def write(folder: Path, tasks: Sequence[ComputeTask]) -> None:
    """Journal a run of tasks: each slice is accepted, then runs in chunks, on one worker after the other."""
    shape = NodeShape(cores=4 * WORKERS, gpus=4 * WORKERS)
    allocation = Allocation(nodes=(Node(name="n0", shape=shape),)).model_dump(mode="json")
    journal = Journal.create(folder, {"uid": "benchmark", "allocation": allocation, "oversubscribed": True})
    now_ns = time.time_ns()
    for first in range(0, len(tasks), SLICE):
        batch = tasks[first : first + SLICE]
        journal.accepted(batch, now_ns, ready=True)
        for task in batch:
            task.attempt = 1
        for start in range(0, len(batch), CHUNK):
            chunk = batch[start : start + CHUNK]
            placement = Placement((Slot(0, (start // CHUNK % WORKERS,)),))
            now_ns += CHUNK * TASK_NS // WORKERS
            journal.placed([Assignment(placement, chunk)], now_ns)
            starts = [now_ns + at * TASK_NS for at in range(len(chunk))]
            journal.ran(chunk, starts, [start + TASK_NS - 500 for start in starts])
        journal.commit()
    journal.close()


def fold(folder: Path) -> None:
    """Fold a journal and print what that took, as JSON."""
    begin_s, cpu_s = time.perf_counter(), time.process_time()
    found = measure(folder)
    cost = Cost(
        wall_s=time.perf_counter() - begin_s,
        cpu_s=time.process_time() - cpu_s,
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    print(json.dumps({**cost._asdict(), "done": found.done}))


def cost_of(folder: Path, count: int) -> Cost:
    """Return what it takes to fold a journal, in a fresh process."""
    command = [sys.executable, __file__, "--fold", str(folder)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)  # noqa: S603 - ourselves
    if found.pop("done") != count:
        raise AssertionError(f"not all of {count} tasks were found done")
    return Cost(**found)


def main() -> None:
    """Measure and print a line for each number of tasks and kind of run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="where the journals are written for the while")
    parser.add_argument("--fold", type=Path, default=None, metavar="RUN", help="fold this run, once, and say the cost")
    options = parser.parse_args()
    if options.fold is not None:
        fold(options.fold)
        return
    root = options.folder or Path(tempfile.gettempdir())
    print(f"{'tasks':>9}  {'run':22}  {'seconds':>7}  {'CPU s':>6}  {'peak memory, MiB':>16}")
    for count in options.tasks:
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="rhapsody-metrics-", dir=root) as name:
                write(Path(name), make_tasks(count, way))
                costs = [cost_of(Path(name), count) for _ in range(REPEATS)]
            cost = Cost(*(median(column) for column in zip(*costs, strict=True)))
            print(f"{count:9,}  {way:22}  {cost.wall_s:7.2f}  {cost.cpu_s:6.2f}  {cost.rss_mib:16.0f}")


if __name__ == "__main__":
    main()
