"""What the journal costs: CPU time and bytes per task of five events each, and reading back.

    python benchmarks/journal.py [--folder DIR] [TASKS...]

CPU time is that of the whole process, fsync and its thread included; only the making of tasks is left out. Each figure
is the median of five runs.
"""

from __future__ import annotations

import argparse
import gc
import random
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.abc import Assignment
from rhapsody.model.event import State
from rhapsody.model.resources import Placement, Slot
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.reader import read_events

if TYPE_CHECKING:
    from collections.abc import Sequence

BATCH = 256
WORKERS = 8
REPEATS = 5
EVENTS_PER_TASK = 5
WAYS = (("chunks of 32, in order", False, 32), ("one by one, in order", False, 1), ("one by one, shuffled", True, 1))
"""How tasks are assigned: what it is called, whether in random order, tasks per placement."""


class Row(NamedTuple):
    """What one run took."""

    write_us: float
    bytes_per_task: float
    read_s: float


def noop() -> None:
    """Do nothing: what every task calls."""


def make_tasks(count: int, *, is_shuffled: bool) -> list[ComputeTask]:
    """Return tasks in the order in which they will run."""
    tasks = [ComputeTask(noop) for _ in range(count)]
    if is_shuffled:
        random.Random(0).shuffle(tasks)  # noqa: S311 - an order, no secret
    return tasks


def assign(batch: Sequence[ComputeTask], *, size: int) -> list[Assignment]:
    """Return assignments of `size` tasks each, over the workers in turn."""
    starts = range(0, len(batch), size)
    return [
        Assignment(Placement((Slot(0, (start // size % WORKERS,)),)), batch[start : start + size]) for start in starts
    ]


def write(folder: Path, tasks: list[ComputeTask], *, size: int) -> float:
    """Journal the whole way of all tasks; return the CPU seconds."""
    journal = Journal.create(folder, {"uid": "benchmark"})
    batches = [tasks[start : start + BATCH] for start in range(0, len(tasks), BATCH)]
    assignments = [assign(batch, size=size) for batch in batches]
    begun_ns = time.time_ns()
    moments = [[begun_ns + 1_000 * at for at in range(len(batch))] for batch in batches]
    gc.collect()
    gc.freeze()  # what the benchmark itself keeps is no business of the journal
    begin_s = time.process_time()
    for batch in batches:
        journal.accepted(batch, begun_ns)
        journal.commit()
    waited_s = time.process_time()
    for task in tasks:
        task.attempt = 1
    waited_s = time.process_time() - waited_s
    for batch, assigned, times_ns in zip(batches, assignments, moments, strict=True):
        journal.entered(State.READY, batch, begun_ns)
        journal.placed(assigned, begun_ns)
        journal.commit()
        journal.entered(State.RUNNING, batch, times_ns)
        journal.entered(State.DONE, batch, times_ns)
        journal.commit()
    journal.close()
    return time.process_time() - begin_s - waited_s


def read(folder: Path, tasks: list[ComputeTask]) -> float:
    """Read all events back; return the CPU seconds."""
    begin_s = time.process_time()
    found = sum(1 for _ in read_events(folder))
    taken_s = time.process_time() - begin_s
    if found != EVENTS_PER_TASK * len(tasks):
        raise AssertionError(f"{found} events were read back, {EVENTS_PER_TASK * len(tasks)} were written")
    return taken_s


def measure(root: Path, tasks: list[ComputeTask], *, size: int) -> Row:
    """Return the medians of some runs."""
    rows = []
    for _ in range(REPEATS):
        for task in tasks:
            task.attempt = 0
        with tempfile.TemporaryDirectory(prefix="rhapsody-journal-", dir=root) as name:
            folder = Path(name)
            write_s = write(folder, tasks, size=size)
            size_bytes = sum(path.stat().st_size for path in folder.rglob("*.log"))
            rows.append(Row(1e6 * write_s / len(tasks), size_bytes / len(tasks), read(folder, tasks)))
    return Row(*(median(column) for column in zip(*rows, strict=True)))


def main() -> None:
    """Measure and print a line for each number of tasks and way to assign them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="where the journals are written for the while")
    options = parser.parse_args()
    root = options.folder or Path(tempfile.gettempdir())
    print(f"{'tasks':>9}  {'assigned':22}  {'CPU µs/task':>11}  {'bytes/task':>10}  {'read back, CPU s':>16}")
    for count in options.tasks:
        for name, is_shuffled, size in WAYS:
            row = measure(root, make_tasks(count, is_shuffled=is_shuffled), size=size)
            print(f"{count:9,}  {name:22}  {row.write_us:11.3f}  {row.bytes_per_task:10.1f}  {row.read_s:16.2f}")


if __name__ == "__main__":
    main()
