"""A session is killed while tasks run; another process learns from what it left which of them ran."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rhapsody import State
from rhapsody.backends import wire
from rhapsody.backends.local import LocalBackend
from rhapsody.model.outcome import Cause
from rhapsody.telemetry.reader import read_events
from tests.eventually import eventually
from tests.leftovers import processes
from tests.requirements import needs_command, needs_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rhapsody.abc import Aftermath, Report

SCRIPT = """
import asyncio, os, sys, time
from pathlib import Path
from rhapsody import ComputeTask, Resources, Session

FOLDER = Path(sys.argv[1])

def note(word, name=None):
    name = name or os.environ["RHAPSODY_TASK_UID"]
    descriptor = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word} {name} {os.getpid()}\\n".encode())
    os.close(descriptor)

def wait_for(gate):
    while not (FOLDER / gate).exists():
        time.sleep(0.002)

def work(number, gate=None):
    note("start")
    wait_for(gate) if gate else time.sleep(0.002)
    note("end")
    return number

def work_on(item):
    note("start", f"item.{item}")
    if item == 23:
        wait_for("never")
    time.sleep(0.0005)
    if item == 12:
        wait_for("go")
    note("end", f"item.{item}")
    if item == 15:
        raise ValueError("no fifteen")
    return item * 10

def rank(gate):
    from mpi4py import MPI
    number = MPI.COMM_WORLD.Get_rank()
    if number == 0:
        note("start")
    wait_for(gate)
    if number == 0:
        note("end")
    return number

class Odd:
    def __init__(self):
        self.pid = os.getpid()

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            raise RuntimeError("only its own process can read it")

def odd():
    work(1, "go")
    return Odd()

def program(gate):
    script = (
        'cd "$1"; echo start $RHAPSODY_TASK_UID $$ >>ledger; until [ -e "$2" ]; do sleep 0.01; done;'
        ' echo end $RHAPSODY_TASK_UID $$ >>ledger; echo said'
    )
    return ComputeTask(executable="sh", arguments=["-c", script, "sh", str(FOLDER), gate])

MPI = Resources(ranks=2)
SETS = {
    "quick": lambda: [ComputeTask(work, args=[number]) for number in range(2000)],
    "gated": lambda: [ComputeTask(work, args=[n, gate]) for n, gate in enumerate(["go", "never", None, None])],
    "programs": lambda: [program("go"), program("never"), program("go")],
    "mpi": lambda: [ComputeTask(rank, args=["go"], resources=MPI), ComputeTask(rank, args=["go"], resources=MPI)],
    "mpi-slow": lambda: [ComputeTask(rank, args=["never"], resources=MPI)],
    "odd": lambda: [ComputeTask(odd)],
}

async def main():
    async with Session(cores=int(sys.argv[3]), runs=FOLDER / "runs", notify=lambda _: None) as session:
        if sys.argv[2] == "map":
            await session.map(work_on, range(40), chunk=20)
        else:
            await session.submit(SETS[sys.argv[2].removeprefix("forked-")]())
        if sys.argv[2].startswith("forked-") and os.fork() == 0:
            note("fork", "child")
            wait_for("never")
            os._exit(0)
        (FOLDER / "run_dir.part").write_text(str(session.run_dir))
        (FOLDER / "run_dir.part").rename(FOLDER / "run_dir")
        await session.wait()

asyncio.run(main())
"""
MARK_VARIABLE = "SALVAGE_MARK"


class Ledger(NamedTuple):
    """What tasks wrote down themselves, by name."""

    started: set[str]
    ended: set[str]
    pids: dict[str, int]


class Run:
    """A session in a process of its own."""

    def __init__(self, folder: Path, what: str, cores: int) -> None:
        folder.mkdir()
        self.folder = folder
        self.mark = str(folder)
        script = folder / "script.py"
        script.write_text(SCRIPT)
        with (folder / "said").open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, str(script), str(folder), what, str(cores)],
                env={**os.environ, MARK_VARIABLE: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )

    @property
    def run_dir(self) -> Path:
        return Path((self.folder / "run_dir").read_text())

    @property
    def ledger(self) -> Ledger:
        path = self.folder / "ledger"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        started = [name for word, name, _ in lines if word == "start"]
        assert max(Counter(started).values(), default=1) == 1
        ended = {name for word, name, _ in lines if word == "end"}
        return Ledger(set(started), ended, {name: int(pid) for _, name, pid in lines})

    @property
    def living(self) -> list[int]:
        """Process ids of all that descends from it and lives."""
        wanted = f"{MARK_VARIABLE}={self.mark}".encode()
        return [pid for pid, each in processes().items() if wanted in each.environ.split(b"\0")]

    def pid_of(self, text: bytes) -> int:
        """Return the process with this in its command line."""
        there = processes()
        return next(pid for pid in self.living if text in there[pid].command)

    @property
    def private_folder(self) -> Path:
        """The pool's folder, from what is on record."""
        return Path(json.loads((self.run_dir / "deploy" / "pool.1.json").read_text())["folder"])

    @property
    def noted(self) -> int:
        """Bytes that are valid in its workers' notebooks."""
        found = {}
        for entry in [entry for pid in self.living for entry in Path("/proc").glob(f"{pid}/fd/*")]:
            with suppress(OSError):  # closed, or its process has ended, in the meantime
                if "memfd:rhapsody-page" in str(entry.readlink()):
                    with entry.open("rb") as page:
                        words = struct.unpack(f"<{wire.OUTBOX // 8}Q", page.read(wire.OUTBOX))
                        found[os.fstat(page.fileno()).st_ino] = words[wire.NOTED] + words[wire.NOTED + 1]
        return sum(found.values())

    async def noted_after(self, before: int) -> None:
        """Return once a worker has noted more than this."""
        await eventually(lambda: self.noted > before, within_s=30, what="a worker has noted what came of its task")

    def open_gate(self) -> None:
        (self.folder / "go").touch()

    async def reached(self, *, started: int = 0, ended: int = 0) -> None:
        """Return once so many tasks have started and ended, and the run folder is known."""

        def is_there() -> bool:
            assert self.process.poll() is None, (self.folder / "said").read_text()
            ledger = self.ledger
            known = (self.folder / "run_dir").exists()
            return known and len(ledger.started) >= started and len(ledger.ended) >= ended

        await eventually(is_there, within_s=30, what=f"{started} tasks started, {ended} ended")

    def halt(self) -> None:
        """Let the session hear of nothing any more."""
        self.process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def recover(self) -> Aftermath:
        return await LocalBackend().recover(self.run_dir, 1)

    def ended_in_journal(self) -> set[str]:
        return {event.uid for event in read_events(self.run_dir, lambda _tail: None) if event.state.is_final}


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Run]]:
    """Return what starts sessions; kills what a failed test left."""
    runs: list[Run] = []

    def start(what: str, *, cores: int = 1) -> Run:
        runs.append(Run(tmp_path / f"{what}.{len(runs)}", what, cores))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
    await eventually(lambda: not any(run.living for run in runs), within_s=10, what="the guardians have ended all")


def names(reports: list[Report], *states: State) -> set[str]:
    return {f"task.{report.number:06d}" for report in reports if report.state in states}


FINAL = (State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN)


async def test_session_killed_amid_quick_functions_leaves_exactly_what_they_wrote_down(
    start: Callable[..., Run],
) -> None:
    run = start("quick", cores=2)
    await run.reached(ended=300)
    run.kill()

    aftermath = await run.recover()

    reports = list(aftermath.reports)
    assert aftermath.complete
    assert names(reports, *FINAL) | run.ended_in_journal() == run.ledger.ended
    assert names(reports, State.RUNNING) == run.ledger.started - run.ledger.ended == set()
    assert len(run.ledger.ended) < 2000
    assert not run.living


async def test_functions_that_ended_unheard_are_done_with_their_values_and_the_killed_one_is_running(
    start: Callable[..., Run],
) -> None:
    run = start("gated", cores=2)
    await run.reached(started=2)
    run.halt()
    run.open_gate()
    await run.reached(ended=1)
    run.kill()

    aftermath = await run.recover()

    assert [(report.number, report.attempt, report.state, report.value) for report in aftermath.reports] == [
        (1, 1, State.DONE, 0),
        (2, 1, State.RUNNING, None),
    ]
    assert aftermath.complete
    assert aftermath.damage == ""
    assert run.ledger.started == {"task.000001", "task.000002"}
    assert all(report.started_ns for report in aftermath.reports)


async def test_executables_that_ended_unheard_are_done_and_the_killed_one_is_running(
    start: Callable[..., Run],
) -> None:
    run = start("programs", cores=2)
    await run.reached(started=2)
    run.halt()
    before = run.noted
    run.open_gate()
    await run.noted_after(before)
    run.kill()

    aftermath = await run.recover()

    ended, killed = aftermath.reports
    assert (ended.number, ended.state, ended.value.stdout, ended.value.exit_code) == (1, State.DONE, "said\n", 0)
    assert (killed.number, killed.state, killed.failure) == (2, State.RUNNING, None)
    assert aftermath.complete
    assert not run.living


async def test_items_that_ended_unheard_are_told_by_ranges_and_the_killed_one_is_running(
    start: Callable[..., Run],
) -> None:
    run = start("map", cores=2)
    await run.reached(started=13 + 4)  # one worker waits at item 12, the other one at item 23
    run.halt()
    run.open_gate()
    await run.reached(ended=20 + 3)
    run.kill()

    aftermath = await run.recover()

    values = {
        f"item.{index}": value
        for report in aftermath.reports
        if report.state is State.DONE and report.items
        for index, value in zip(range(*report.items), report.value, strict=True)
    }
    failed = [(report.items, report.failure and report.failure.message) for report in _of(aftermath, State.FAILED)]
    assert set(values) <= run.ledger.ended == {f"item.{index}" for index in range(23)}
    assert {f"item.{index}" for index in range(13, 20)} <= set(values)
    assert values["item.13"] == 130
    assert failed == [((15, 16), "ValueError: no fifteen")]
    assert [report.items for report in _of(aftermath, State.RUNNING)] == [(23, 24)]
    assert aftermath.complete


def _of(aftermath: Aftermath, state: State) -> list[Report]:
    return [report for report in aftermath.reports if report.state is state]


@needs_command("mpiexec", package="openmpi-bin")
@needs_module("mpi4py", install="mpi4py")
async def test_mpi_function_that_ended_unheard_is_done_with_the_values_of_its_ranks(start: Callable[..., Run]) -> None:
    run = start("mpi", cores=2)
    await run.reached(started=1)
    run.halt()
    before = run.noted
    run.open_gate()
    await run.noted_after(before)
    run.kill()

    aftermath = await run.recover()

    assert [(report.number, report.state, report.value) for report in aftermath.reports] == [(1, State.DONE, [0, 1])]
    assert aftermath.complete


@needs_command("mpiexec", package="openmpi-bin")
@needs_module("mpi4py", install="mpi4py")
async def test_mpi_task_killed_with_the_session_is_running_and_its_ranks_are_gone(start: Callable[..., Run]) -> None:
    run = start("mpi-slow", cores=2)
    await run.reached(started=1)
    run.kill()

    aftermath = await run.recover()

    assert [(report.number, report.state) for report in aftermath.reports] == [(1, State.RUNNING)]
    assert aftermath.complete
    assert not run.living


async def test_value_that_only_its_worker_can_read_is_told_failed(start: Callable[..., Run]) -> None:
    run = start("odd")
    await run.reached(started=1)
    run.halt()
    run.open_gate()
    await run.reached(ended=1)
    run.kill()

    aftermath = await run.recover()

    (report,) = aftermath.reports
    assert report.state is State.FAILED
    assert report.failure is not None
    assert report.failure.cause is Cause.RESULT


async def test_what_a_worker_noted_that_died_before_the_session_is_told(start: Callable[..., Run]) -> None:
    run = start("map", cores=2)
    await run.reached(started=13 + 4)
    run.halt()
    worker = run.ledger.pids["item.23"]
    os.kill(worker, signal.SIGKILL)
    await eventually(lambda: worker not in processes(), what="the worker is buried")
    run.kill()

    aftermath = await run.recover()

    assert {report.items for report in _of(aftermath, State.RUNNING)} == {(12, 13), (23, 24)}
    assert aftermath.complete


async def test_worker_that_was_halted_when_the_session_died_ends_its_task(start: Callable[..., Run]) -> None:
    run = start("gated")
    await run.reached(started=1)
    run.halt()
    os.kill(run.ledger.pids["task.000001"], signal.SIGSTOP)
    run.open_gate()
    run.kill()

    aftermath = await run.recover()

    assert [(report.number, report.state) for report in aftermath.reports] == [(1, State.DONE)]
    assert run.ledger.ended == {"task.000001"}


async def test_session_that_had_forked_is_known_to_be_dead_all_the_same(start: Callable[..., Run]) -> None:
    run = start("forked-gated")
    await run.reached(started=1)
    await eventually(lambda: "child" in run.ledger.pids, what="the session has forked")
    run.kill()  # its child still holds every socket that it had

    aftermath = await run.recover()

    assert [(report.number, report.state) for report in aftermath.reports] == [(1, State.RUNNING)]
    assert aftermath.complete
    assert run.living == [run.ledger.pids["child"]]
    os.kill(run.ledger.pids["child"], signal.SIGKILL)


async def test_recovering_again_says_the_same(start: Callable[..., Run]) -> None:
    run = start("gated", cores=2)
    await run.reached(started=2)
    run.halt()
    run.open_gate()
    await run.reached(ended=1)
    run.kill()
    first = await run.recover()

    second = await run.recover()

    assert second == first
    assert len(first.reports) == 2


async def test_guardian_killed_too_leaves_nothing_behind_and_nothing_known(start: Callable[..., Run]) -> None:
    run = start("programs", cores=2)
    await run.reached(started=2)
    folder = run.private_folder
    os.kill(run.pid_of(b"rhapsody-guardian"), signal.SIGKILL)
    run.kill()

    aftermath = await run.recover()

    assert not aftermath.complete
    assert aftermath.reports == ()
    assert not folder.exists()
    await eventually(lambda: not run.living, what="nothing of it lives")


async def test_session_and_guardian_halted_for_good_are_ended(
    start: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rhapsody.backends.salvage.GUARDIAN_LIMIT_S", 0.1)
    run = start("gated", cores=2)
    await run.reached(started=2)
    os.kill(run.pid_of(b"rhapsody-guardian"), signal.SIGSTOP)
    run.kill()

    aftermath = await run.recover()

    assert not aftermath.complete
    await eventually(lambda: not run.living, what="nothing of it lives")


async def test_another_run_is_left_alone(start: Callable[..., Run]) -> None:
    other = start("gated")
    await other.reached(started=1)
    run = start("gated")
    await run.reached(started=1)
    folder, living = other.private_folder, set(other.living)
    run.kill()

    await run.recover()

    assert set(other.living) == living
    assert folder.is_dir()
    assert other.process.poll() is None


async def test_flipped_bit_is_told_and_the_rest_is_not_called_complete(start: Callable[..., Run]) -> None:
    run = start("gated", cores=2)
    await run.reached(started=2)
    run.kill()
    await run.recover()
    (left,) = (run.run_dir / "journal").glob("left.1.*")
    data = bytearray(left.read_bytes())
    data[len(data) // 2] ^= 1
    left.write_bytes(data)

    aftermath = await run.recover()

    assert str(left) in aftermath.damage
    assert "checksum" in aftermath.damage
    assert not aftermath.complete


async def test_session_that_ends_by_itself_leaves_neither_record_nor_notes(start: Callable[..., Run]) -> None:
    run = start("programs", cores=2)
    await run.reached(started=2)
    run.open_gate()
    (run.folder / "never").touch()
    await eventually(lambda: run.process.poll() is not None, within_s=20, what="the session has ended")

    left = [*(run.run_dir / "journal").glob("left.*"), *(run.run_dir / "deploy").iterdir()]

    assert left == []
