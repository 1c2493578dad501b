"""What is made of a dead session's notes, and how what it left is found and cleared away."""

from __future__ import annotations

import asyncio
import json
import marshal
import mmap
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.abc import Aftermath
from rhapsody.backends import salvage, wire
from rhapsody.backends.member import Chunk, Lane, Member
from rhapsody.backends.notebook import NotedChunk, Notes, WorkerNotes, read_left, write_left
from rhapsody.backends.packing import dump_function
from rhapsody.backends.pool import Pool
from rhapsody.backends.pool_settings import PoolSettings
from rhapsody.backends.starter import GuardianStarter
from rhapsody.backends.worker import Worker
from rhapsody.errors import BackendError
from rhapsody.model.event import State
from rhapsody.node.processes import started_at
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.abc import Report


RAN: list[int] = []


def seven_times(number: int) -> int:
    """Note that it ran, which the worker does in this process."""
    RAN.append(number)
    return number * 7


class Bench:
    """A real worker in a thread, fed by hand, and the pool's and the guardian's ends of it."""

    def __init__(self, *, noting: bool = True) -> None:
        self.notes = Notes()
        self.member = Member(1, Lane("core-0"))
        self._ours, theirs = socket.socketpair()
        self._worker_page = mmap.mmap(self.notes.descriptors.page, wire.PAGE_BYTES)
        self.member.connect(self._ours, os.getpid(), mmap.mmap(self.notes.descriptors.page, wire.PAGE_BYTES))
        self._worker = Worker(theirs, self._worker_page, self.notes.descriptors.buffers if noting else None)
        self._thread = threading.Thread(target=self._worker.serve)
        self._thread.start()
        self._theirs = theirs

    def define(self, function: object) -> None:
        self._ours.sendall(wire.frame(("define", 1, dump_function(function))))

    def feed(self, chunk: Chunk) -> None:
        self._ours.sendall(self.member.take(chunk, self.member.read))

    def read(self, enough: int) -> list[Report]:
        """Read until so many reports have come."""
        reports: list[Report] = []
        while len(reports) < enough:
            reports += self.member.receive(self._ours.recv(1 << 16))
        return reports

    def swallow(self, enough: int) -> None:
        """Take so many results off the connection, and forget them."""
        reader = Member(2, Lane("core-0"))
        for sequence in range(1, enough + 1):
            reader.recall(sequence, sequence, 1, None)
        while not reader.is_idle:
            reader.receive(self._ours.recv(1 << 16))

    def die(self) -> list[Report]:
        """Hang up as a session does that dies; return what its notes say."""
        self._ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        with tempfile.TemporaryDirectory() as folder:
            write_left(Path(folder) / "left", [self.notes], complete=True)
            (worker,) = read_left(Path(folder) / "left").workers
        return salvage.reports_of(worker)

    def close(self) -> None:
        self._ours.close()
        self._thread.join()
        self._theirs.close()
        self._worker._words.release()
        self._worker_page.close()
        self.member.close()
        self.notes.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def numbered(first: int, count: int) -> Chunk:
    numbers = list(range(first, first + count))
    return Chunk.of(numbers, [number % 3 + 1 for number in numbers], [1] * count, [(number,) for number in numbers])


@settings(deadline=None, max_examples=40)
@given(steps=st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=12))
def test_every_result_that_was_not_read_is_found_once(steps: list[tuple[int, bool]]) -> None:
    bench = Bench()
    RAN.clear()
    bench.define(seven_times)
    unread: list[int] = []
    first = 1
    for count, is_read in steps:
        bench.feed(numbered(first, count))
        unread += range(first, first + count)
        first += count
        if is_read:
            bench.read(len(unread))
            unread = []

    reports = bench.die()

    bench.close()
    told = [report.number for report in reports]
    assert all((each.state, each.value) == (State.DONE, each.number * 7) for each in reports)
    assert all(each.attempt == each.number % 3 + 1 for each in reports)
    assert len(told) == len(set(told))
    assert told == sorted(told)
    assert set(unread) & set(RAN) <= set(told) <= set(RAN)


def test_task_that_was_called_back_is_not_told(bench: Bench) -> None:
    bench.define(lambda number: number)
    bench.feed(numbered(1, 2))
    bench.read(2)
    words = wire.page_words(bench.member._page)  # type: ignore[arg-type]
    words[wire.SKIP_FROM], words[wire.SKIP_UNTIL] = 4, 6
    words.release()
    bench.feed(numbered(3, 3))

    reports = bench.die()

    assert [report.number for report in reports if report.number > 2] == [3]


def test_values_of_every_kind_are_decoded_as_the_pool_does(bench: Bench) -> None:
    def make(number: int) -> Any:  # noqa: ANN401
        if number == 5:
            raise KeyError("five")
        return [None, 1.5, {"a": [1]}, bytes(1 << 19)][number - 1]

    bench.define(make)
    bench.feed(numbered(1, 5))
    bench.swallow(5)

    reports = bench.die()

    assert [report.value for report in reports] == [None, 1.5, {"a": [1]}, bytes(1 << 19), None]
    assert reports[4].state is State.FAILED
    assert reports[4].failure is not None
    assert isinstance(reports[4].failure.exception, KeyError)
    assert all(0 < report.started_ns <= report.ended_ns for report in reports)


def test_worker_without_a_notebook_runs_tasks_all_the_same() -> None:
    bench = Bench(noting=False)
    bench.define(seven_times)

    bench.feed(numbered(1, 3))
    reports = bench.read(3)

    bench.close()
    assert [report.value for report in reports] == [7, 14, 21]


def notes_of(current: int, *, item: int = wire.NONE_YET, skipped: int = 0, records: bytes = b"") -> WorkerNotes:
    """Return what a worker noted that was given tasks 11 and 12, or items 5 to 9 of task 13 as its third."""
    words = [0] * (wire.OUTBOX // 8)
    words[wire.CURRENT], words[wire.ITEM], words[wire.SKIPPED], words[wire.STARTED] = current, item, skipped, 77
    chunks = [NotedChunk(1, [11, 12], [1, 4], None), NotedChunk(3, [13], 2, (5, 10))]
    return WorkerNotes(tuple(words), chunks, records)


def brief(reports: list[Report]) -> list[tuple[int, int, State, tuple[int, int] | None]]:
    return [(report.number, report.attempt, report.state, report.items) for report in reports]


def test_task_it_was_at_is_running_with_its_attempt_and_start() -> None:
    reports = salvage.reports_of(notes_of(2))

    assert brief(reports) == [(12, 4, State.RUNNING, None)]
    assert reports[0].started_ns == 77


def test_worker_that_only_passed_a_skipped_task_was_at_nothing() -> None:
    assert salvage.reports_of(notes_of(2, skipped=2)) == []


def test_worker_that_was_given_tasks_and_started_none_was_at_nothing() -> None:
    assert salvage.reports_of(notes_of(0)) == []


def test_array_whose_first_item_was_not_reached_was_at_nothing() -> None:
    assert salvage.reports_of(notes_of(3)) == []


def test_items_whose_values_were_not_committed_are_running_with_the_one_it_was_at() -> None:
    data = marshal.dumps((5, 2, True, [50, 60], {}))
    records = wire.RECORD.pack(3, 1, 2, len(data), wire.ITEMS) + data

    reports = salvage.reports_of(notes_of(3, item=8, records=records))

    assert brief(reports) == [
        (13, 2, State.DONE, (5, 7)),
        (13, 2, State.RUNNING, (7, 8)),
        (13, 2, State.RUNNING, (8, 9)),
    ]


def test_array_stopped_between_two_items_was_at_nothing() -> None:
    data = marshal.dumps((5, 2, True, [50, 60], {}))
    records = wire.RECORD.pack(3, 1, 2, len(data), wire.ITEMS) + data

    reports = salvage.reports_of(notes_of(3, item=6, records=records))

    assert brief(reports) == [(13, 2, State.DONE, (5, 7))]


async def test_guardian_keeps_notes_of_the_dead_only_until_they_are_settled(tmp_path: Path) -> None:
    reports: list[Report] = []
    settings = PoolSettings("here", tmp_path / "log", 0, {}, str(tmp_path), tuple(sys.path), "")
    starter = GuardianStarter(tmp_path / "left")
    pool = Pool(starter, settings, reports.extend, lambda _reason: None)
    await pool.start()
    pool.define(1, dump_function(lambda: os.kill(os.getpid(), signal.SIGKILL)))

    counts: list[int] = []
    for number in range(1, 6):
        pool.feed(Lane("core-0"), Chunk.of([number], [1], [1], [()]))
        await eventually(lambda: len(reports) > len(counts), within_s=20)
        links = [str(link.readlink()) for link in Path(f"/proc/{starter.keeper}/fd").iterdir()]
        counts.append(sum("memfd:rhapsody" in link for link in links))
    await pool.aclose()

    assert counts == [3] * 5
    assert not (tmp_path / "left").exists()


async def test_guardian_that_cannot_write_says_so_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    settings = PoolSettings("here", log, 0, {}, str(tmp_path), tuple(sys.path), "")
    starter = GuardianStarter(tmp_path / "missing" / "left")
    pool = Pool(starter, settings, lambda _reports: None, lambda _reason: None)
    await pool.start()

    starter._hang_up()  # unannounced, as when the session dies
    await pool.aclose()

    assert f"could not be written to {tmp_path / 'missing' / 'left'}" in log.read_text()


async def test_session_that_left_nothing_is_not_called_complete(tmp_path: Path) -> None:
    assert await salvage.recover(tmp_path, 1) == Aftermath()


async def test_notes_without_a_record_are_read_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    write_left(salvage.left_path(tmp_path, 2, "a/b"), [], complete=True)

    assert (await salvage.recover(tmp_path, 2)).complete
    assert not (await salvage.recover(tmp_path, 1)).complete


def deployed(**changes: Any) -> salvage.Deployed:  # noqa: ANN401
    here = salvage.Deployed.here("here", os.getpid(), Path("/nowhere"), ("SALVAGE_TEST", "nothing"))
    return here._replace(started=1, **changes)  # another process had our number


async def test_folder_of_the_dead_pool_is_removed_after_a_new_boot_too(tmp_path: Path) -> None:
    folder = tmp_path / "rhapsody-abc"
    folder.mkdir(mode=0o700)
    salvage.write_record(salvage.record_path(tmp_path, 1), deployed(boot="before", folder=str(folder)))

    await salvage.recover(tmp_path, 1)

    assert not folder.exists()


@pytest.mark.parametrize("kind", ["other name", "link", "open to others", "file"])
async def test_what_is_no_private_folder_of_ours_is_left_alone(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / ("precious" if kind == "other name" else "rhapsody-abc")
    (tmp_path / "target").mkdir(mode=0o700)
    (tmp_path / "target" / "file").touch()
    if kind == "link":
        folder.symlink_to(tmp_path / "target")
    elif kind == "file":
        folder.touch(mode=0o600)
    else:
        folder.mkdir(mode=0o755 if kind == "open to others" else 0o700)
    salvage.write_record(salvage.record_path(tmp_path, 1), deployed(folder=str(folder)))

    await salvage.recover(tmp_path, 1)

    assert folder.exists()
    assert (tmp_path / "target" / "file").exists()


async def test_guardian_elsewhere_is_given_time_to_write(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    folder = tmp_path / "rhapsody-abc"
    folder.mkdir(mode=0o700)
    salvage.write_record(
        salvage.record_path(tmp_path, 1), deployed(node="elsewhere", host="elsewhere", folder=str(folder))
    )

    async with asyncio.TaskGroup() as group:
        recovering = group.create_task(salvage.recover(tmp_path, 1))
        await asyncio.sleep(0)
        write_left(salvage.left_path(tmp_path, 1, "elsewhere"), [], complete=True)

    assert recovering.result().complete
    assert folder.exists()


async def test_guardian_elsewhere_that_writes_nothing_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(salvage, "ELSEWHERE_LIMIT_S", 0.05)
    salvage.write_record(salvage.record_path(tmp_path, 1), deployed(host="elsewhere"))

    began = time.monotonic()
    aftermath = await salvage.recover(tmp_path, 1)

    assert aftermath == Aftermath()
    assert 0.05 <= time.monotonic() - began < 5


async def test_record_that_cannot_be_read_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = salvage.record_path(tmp_path, 1)
    path.parent.mkdir()
    path.write_text(json.dumps({"host": "here"}))

    with pytest.raises(BackendError, match="then remove the file"):
        await salvage.recover(tmp_path, 1)


def test_record_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "deploy").touch()

    with pytest.raises(BackendError, match="could not be put on record"):
        salvage.write_record(salvage.record_path(tmp_path, 1), deployed())


def test_process_that_has_ended_was_started_at_no_time() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    zombie = started_at(pid)
    os.waitpid(pid, 0)

    assert zombie is None
    assert started_at(pid) is None
    assert started_at(os.getpid()) is not None
