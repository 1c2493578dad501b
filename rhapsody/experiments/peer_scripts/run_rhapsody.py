"""Everything that is measured of RHAPSODY itself."""

from __future__ import annotations

import asyncio
import fcntl
import gc
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rhapsody
from rhapsody import ComputeTask, Session

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TICK_S = 0.001


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def noop_of(item: int) -> int:
    """Do nothing with an item."""
    return item


def wait_for_lock(path: str) -> None:
    """Block for as long as somebody holds the lock on a file."""
    with Path(path).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def make_function() -> ComputeTask:
    """Return a no-op."""
    return ComputeTask(noop)


def make_executable() -> ComputeTask:
    """Return a program that does nothing."""
    return ComputeTask(executable=measure.PROGRAM)


def values_of(tasks: list[ComputeTask]) -> list[Any]:
    """Return values of functions and exit codes of programs; of failed tasks, why."""
    return [_value_of(task) if task.state == "DONE" else task.failure for task in tasks]


def _value_of(task: ComputeTask) -> Any:  # noqa: ANN401 - whatever the function returned
    return task.return_value if task.executable is None else task.exit_code


async def tasks(session: Session, order: measure.Order) -> dict[str, float]:
    """Modes `functions`, `executables` and `latency`."""

    async def run_one(task: ComputeTask) -> None:
        await session.submit(task)
        await task

    async def run_all(tasks: list[ComputeTask]) -> None:
        await session.submit(tasks)
        await session.wait(tasks)

    make = make_executable if order.mode == "executables" else make_function
    return await measure.drive_batches(order, make, run_one=run_one, run_all=run_all, values_of=values_of)


async def mapped(session: Session, order: measure.Order) -> dict[str, float]:
    """Mode `map`: one call for all items, which are whole numbers."""
    await session.wait([await session.map(noop_of, range(measure.WARM_UP_TASKS_PER_WORKER * order.workers))])
    meter = measure.Meter()
    meter.start()
    array = await session.map(noop_of, range(order.n))
    await session.wait([array])
    meter.stop()
    if array.value != list(range(order.n)):
        raise RuntimeError(f"{array.uid} ended {array.state}, and not with the values of all items: {array.failure}")
    return meter.metrics(order.n, "item")


async def memory(session: Session, order: measure.Order) -> dict[str, float]:
    """Mode `memory`: resident memory per task while all wait behind blocked workers, and after all were let go."""
    lock = Path(order.scratch, "lock")
    with lock.open("w") as file:  # noqa: ASYNC230 - an empty local file
        fcntl.flock(file, fcntl.LOCK_EX)
        await session.submit([ComputeTask(wait_for_lock, args=(str(lock),)) for _ in range(order.workers)])
        before = resident_bytes()
        waiting = [make_function() for _ in range(order.n)]
        await session.submit(waiting)
        queued = resident_bytes() - before
        if any(task.is_final for task in waiting):
            raise RuntimeError("tasks ran although all workers were blocked")
        fcntl.flock(file, fcntl.LOCK_UN)
        await session.wait()
    measure.require_values(order, values_of(waiting))
    waiting.clear()
    finished = resident_bytes() - before
    return {"bytes_per_queued_task": queued / order.n, "bytes_per_finished_task": finished / order.n}


async def loop_block(session: Session, order: measure.Order) -> dict[str, float]:
    """Mode `loop-block`: the longest that other coroutines had to wait for their turn."""
    many = [make_function() for _ in range(order.n)]
    submitting = await longest_gap_ms(lambda: session.submit(many))
    running = await longest_gap_ms(lambda: session.wait(many))
    measure.require_values(order, values_of(many))
    return {"longest_gap_submitting_ms": submitting, "longest_gap_running_ms": running}


async def longest_gap_ms(work: Callable[[], Awaitable[object]]) -> float:
    """Return how much later than asked, at most, a ticking coroutine was woken during some work."""
    longest = 0.0
    working = True

    async def tick() -> None:
        nonlocal longest
        while working:
            before = time.perf_counter()
            await asyncio.sleep(TICK_S)
            longest = max(longest, time.perf_counter() - before - TICK_S)

    async with asyncio.TaskGroup() as group:
        group.create_task(tick())
        await asyncio.sleep(0)  # the first tick is asked for before the work starts
        await work()
        working = False
    return longest * 1e3


def resident_bytes() -> int:
    """Return the resident memory of this process, garbage collected first."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


MODES = {
    "functions": tasks,
    "executables": tasks,
    "latency": tasks,
    "map": mapped,
    "memory": memory,
    "loop-block": loop_block,
}


async def run(order: measure.Order) -> dict[str, float]:
    """Measure what the order says."""
    async with Session(
        backend=order.backend, cores=order.workers, journal=order.journal, runs=order.runs_dir, name="bench"
    ) as session:
        return await MODES[order.mode](session, order)


def main() -> None:
    """Measure and report."""
    order = measure.read_order()
    metrics = asyncio.run(run(order))
    submitting = "Session.map(all items)" if order.mode == "map" else "Session.submit(list of all)"
    waiting = f"{submitting}, Session.wait"
    measure.write_report(order, metrics, version=rhapsody.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
