"""The journal of a run, read back event by event, says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from rhapsody import ArrayTask, ComputeTask, Event, Resources, Retry, Session, State
from rhapsody.telemetry.reader import read_events, read_run, read_tasks

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody import Task

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED = State.DONE, State.FAILED, State.CANCELED
ATTEMPT = [PLACED, RUNNING]
Row = tuple[State, int]

SELF_READING = """
import asyncio, os, sys
from rhapsody import ComputeTask, Session, TaskError
from rhapsody.telemetry.reader import read_events

def work(number):
    if number % 5 == 4:
        raise ValueError(number)
    return number

async def main():
    async with Session(cores=2, runs=sys.argv[1], notify=lambda _: None) as session:
        tasks = [ComputeTask(work, args=[number]) for number in range(40)]
        tasks.append(ComputeTask(work, args=[tasks[4]]))
        await session.submit(tasks)
        array = await session.map(work, range(4))
        for task in [*tasks, array]:
            try:
                await task
            except TaskError:
                pass
            written = {event.uid: event.state for event in read_events(session.run_dir)}
            if written.get(task.uid) is not task.state:
                print("delivered too early:", task, written.get(task.uid), flush=True)
            else:
                print("ended", task.uid, task.state, flush=True)
        if len(sys.argv) > 2:
            os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def rows_of(events: list[Event], task: Task) -> list[Row]:
    """Return states and attempts of a task, in the order of the journal."""
    return [(event.state, event.attempt) for event in events if event.uid == task.uid and event.items is None]


def path(*states: State) -> list[Row]:
    """Return a task's rows from its states: the attempt is counted up by each PLACED."""
    attempt = 0
    rows = []
    for state in states:
        attempt += state is PLACED
        rows.append((state, attempt))
    return rows


def require_order(events: list[Event]) -> None:
    """Check the total order, and that no time of a task goes back."""
    assert [event.seq for event in events] == list(range(len(events)))
    last: dict[str, int] = defaultdict(int)
    for event in events:
        if event.items is None:
            assert event.time_ns >= last[event.uid], event
            last[event.uid] = event.time_ns


def require_disjoint(events: list[Event]) -> None:
    """Check that no core had two attempts RUNNING at the same time."""
    placed = {(event.uid, event.attempt): event for event in events if event.state is PLACED}
    begun = {(event.uid, event.attempt): event.time_ns for event in events if event.state is RUNNING}
    spans: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for event in events:
        key = (event.uid, event.attempt)
        if event.state.is_final and key in begun:
            for node, cores, _ in placed[key].slots:
                for core in cores:
                    spans[node, core].append((begun[key], event.time_ns))
    assert spans
    for busy in spans.values():
        for (_, end), (start, _) in pairwise(sorted(busy)):
            assert end <= start, busy


class TestEvents:
    async def test_a_diamond_is_told_in_the_order_of_its_edges(self, tmp_path: Path) -> None:
        top = ComputeTask(lambda: 1, uid="top")
        sides = [ComputeTask(lambda value: value + 1, args=[top]) for _ in range(2)]
        bottom = ComputeTask(lambda *values: sum(values), args=sides, uid="bottom")
        async with Session(cores=2, runs=tmp_path) as session:
            await session.submit([bottom, *sides, top])
        events = list(read_events(session.run_dir))

        assert bottom.value == 4
        assert all(rows_of(events, task) == path(WAITING, READY, *ATTEMPT, DONE) for task in (top, *sides, bottom))
        require_order(events)
        require_disjoint(events)
        times = {(event.uid, event.state): event.time_ns for event in events}
        for before, after in [(top, sides[0]), (top, sides[1]), (sides[0], bottom), (sides[1], bottom)]:
            assert times[before.uid, DONE] <= times[after.uid, READY]

    async def test_every_attempt_of_a_retried_task_is_told_with_its_end(self, tmp_path: Path) -> None:
        def once() -> None:
            if os.environ["RHAPSODY_ATTEMPT"] == "1":
                raise ValueError("not yet")

        task = ComputeTask(once, retry=Retry(attempts=3, delay_s=0.01))
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit(task)
        events = list(read_events(session.run_dir))

        assert rows_of(events, task) == path(WAITING, READY, *ATTEMPT, FAILED, WAITING, READY, *ATTEMPT, DONE)
        assert [event.detail for event in events if event.state is FAILED] == ["exception: ValueError: not yet"]
        require_order(events)
        again = [event.time_ns for event in events if event.state is READY]
        failed = next(event.time_ns for event in events if event.state is FAILED)
        assert again[1] - failed >= 10_000_000

    async def test_canceled_tasks_are_told_from_where_they_were(self, tmp_path: Path) -> None:
        running = ComputeTask(executable="sleep", arguments=["60"])
        ready = ComputeTask(executable="sleep", arguments=["60"])
        waiting = ComputeTask(lambda value: value, args=[running])
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([running, ready, waiting])
            await session.cancel(ready)
            await session.cancel(running)
        events = list(read_events(session.run_dir))

        assert rows_of(events, ready) == path(WAITING, READY, CANCELED)
        assert rows_of(events, waiting) == path(WAITING, CANCELED)
        states = [state for state, _ in rows_of(events, running)]
        assert states in ([WAITING, READY, *ATTEMPT, CANCELED], [WAITING, READY, PLACED, CANCELED])
        require_order(events)

    async def test_a_failed_chain_of_twenty_thousand_is_told_to_its_end(self, tmp_path: Path) -> None:
        def fail() -> None:
            raise ValueError("no water")

        chain = [ComputeTask(fail)]
        for _ in range(20_000):
            chain.append(ComputeTask(len, args=[chain[-1]]))
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit(chain)
            await session.wait()
        events = list(read_events(session.run_dir))

        failed = [event for event in events if event.state is FAILED]
        assert [event.uid for event in failed] == [task.uid for task in chain]
        assert all(f"{chain[0].uid}, which it depends on" in event.detail for event in failed[1:])
        assert all("no water" in event.detail for event in failed)
        assert rows_of(events, chain[-1]) == path(WAITING, FAILED)
        require_order(events)

    async def test_a_time_limit_is_told_as_the_failure_of_its_attempt(self, tmp_path: Path) -> None:
        task = ComputeTask(executable="sleep", arguments=["60"], timeout_s=0.1)
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit(task)
            await session.wait()
        events = list(read_events(session.run_dir))

        assert rows_of(events, task) == path(WAITING, READY, *ATTEMPT, FAILED)
        assert events[-1].detail.startswith("timeout: ")
        begun, ended = (event.time_ns for event in events[-2:])
        assert ended - begun >= 100_000_000

    async def test_the_items_of_an_array_are_told_as_ranges_that_cover_them(self, tmp_path: Path) -> None:
        async with Session(cores=2, runs=tmp_path) as session:
            array: ArrayTask = await session.map(abs, range(-3_000, 0), uid="distances")
            await array
        events = list(read_events(session.run_dir))

        assert array.value == list(range(3_000, 0, -1))
        for state in (PLACED, DONE):
            covered = sorted(event.items for event in events if event.state is state and event.items is not None)
            assert covered[0][0] == 0
            assert covered[-1][1] == 3_000
            assert all(before[1] == after[0] for before, after in pairwise(covered))
        launches = {event.attempt: event.items for event in events if event.state is PLACED}
        for event in events:
            if event.state is DONE and event.items is not None:
                first, stop = launches[event.attempt] or (0, 0)
                assert first <= event.items[0] < event.items[1] <= stop
        assert events[-1].state is DONE
        assert events[-1].items is None

    async def test_many_tasks_of_all_sizes_never_share_a_core(self, tmp_path: Path) -> None:
        tasks = [
            ComputeTask(sum, args=[range(2_000 * (number % 7))], resources=Resources(cores_per_rank=1 + number % 3))
            for number in range(300)
        ]
        async with Session(cores=3, runs=tmp_path) as session:
            await session.submit(tasks)
        events = list(read_events(session.run_dir))

        assert all(rows_of(events, task) == path(WAITING, READY, *ATTEMPT, DONE) for task in tasks)
        require_order(events)
        require_disjoint(events)

    async def test_it_knows_the_run_and_its_tasks(self, tmp_path: Path) -> None:
        task = ComputeTask(len, args=["abc"], priority=2, uid="count", resources=Resources(cores_per_rank=2))
        async with Session(cores=2, runs=tmp_path, name="known") as session:
            await session.submit(task)
        run, (record,) = read_run(session.run_dir), list(read_tasks(session.run_dir))

        assert (run["uid"], run["backend"], run["pid"]) == (session.uid, "local", os.getpid())
        assert (record.uid, record.kind, record.label, record.priority) == ("count", "task", "len", 2)
        assert record.resources == task.resources

    async def test_without_a_journal_nothing_is_written(self, tmp_path: Path) -> None:
        async with Session(cores=1, runs=tmp_path, journal=False) as session:
            await session.submit(ComputeTask(len, args=["abc"]))

        assert not list((session.run_dir / "journal").glob("*"))


class TestDelivery:
    def test_what_a_coroutine_learns_is_in_the_files_already(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", SELF_READING, str(tmp_path)]

        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

        assert ran.returncode == 0, ran.stderr
        assert [line for line in ran.stdout.splitlines() if not line.startswith("ended")] == []
        assert len(ran.stdout.splitlines()) == 42

    def test_a_killed_session_has_forgotten_nothing_that_it_told(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", SELF_READING, str(tmp_path), "kill"]

        ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        (folder,) = tmp_path.iterdir()
        written = {event.uid: event.state for event in read_events(folder)}

        assert ran.returncode == -signal.SIGKILL, ran.stderr
        told = dict(line.split()[1:] for line in ran.stdout.splitlines())
        assert len(told) == 42
        assert {uid: str(written[uid]) for uid in told} == told
