"""Writing the journal: full disks, broken files, killed processes, and what is left of each."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.abc import Assignment
from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import segments
from rhapsody.telemetry.journal import Journal, NullJournal
from rhapsody.telemetry.reader import read_events, read_run, read_tasks
from tests.eventually import eventually
from tests.unit.telemetry.twin import RUN, Twin, noop, on_core, only_segment

if TYPE_CHECKING:
    from collections.abc import Iterator

CHILD = """
    import sys
    from pathlib import Path
    from rhapsody.model.event import State
    from rhapsody.model.task import ComputeTask
    from rhapsody.telemetry import segments
    from rhapsody.telemetry.journal import Journal

    segments.SYNC_DELAY_S = 3600.0  # so that fsync cannot be what keeps the events
    journal = Journal.create(Path(sys.argv[1]), {"uid": "killed"})
    tasks = [ComputeTask(print) for _ in range(5_000)]
    journal.accepted(tasks, 1)
    journal.entered(State.READY, tasks, 2)
    journal.commit()
    journal.entered(State.DONE, tasks, 3)
    print("committed", flush=True)
    sys.stdin.read()
"""


@contextmanager
def no_room_behind(size_bytes: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size: the system refuses, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_file_system(folder: Path, size: str) -> Iterator[None]:
    """Mount a file system of its own that is soon full; skip where that is not allowed."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("run it as root, where mounting a tmpfs is allowed")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - the system's


class TestNoRoom:
    def test_nothing_is_lost_when_there_is_room_again(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path)
        path = only_segment(tmp_path)
        tasks = [ComputeTask(noop, uid=f"number-{at}") for at in range(500)]
        twin.accepted(tasks[:250], 1)
        twin.journal.commit()
        size = path.stat().st_size

        twin.accepted(tasks[250:], 2)
        with (
            no_room_behind(size + 700),
            pytest.raises(JournalError, match=rf"{path} at byte {size + 700}: File too large"),
        ):
            twin.journal.commit()
        size_meanwhile = path.stat().st_size
        read_meanwhile = twin.read_back()
        twin.entered(State.READY, tasks, 3)
        twin.journal.commit()
        twin.journal.close()

        assert size_meanwhile == size
        assert read_meanwhile == twin.expected[:250]
        assert twin.read_back() == twin.expected
        assert only_segment(tmp_path) == path

    def test_a_full_file_system_loses_nothing(self, tmp_path: Path) -> None:
        with small_file_system(tmp_path, "512k"):
            twin = Twin(tmp_path)
            ballast = tmp_path / "ballast"
            tasks = [ComputeTask(noop, uid=f"number-{at}") for at in range(20_000)]
            ballast.write_bytes(bytes(400 << 10))
            twin.accepted(tasks[:10], 1)
            twin.journal.commit()

            twin.accepted(tasks[10:], 2)
            with pytest.raises(JournalError, match="No space left on device"):
                twin.journal.commit()
            read_meanwhile = twin.read_back()
            ballast.unlink()
            twin.journal.close()
            read_at_last = twin.read_back()

        assert read_meanwhile == twin.expected[:10]
        assert read_at_last == twin.expected

    def test_a_segment_that_cannot_be_mended_is_left_and_nothing_comes_twice(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_file: int, _size: int) -> None:  # no file system at hand refuses to shorten a file
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        twin = Twin(tmp_path)
        path = only_segment(tmp_path)
        for moment in range(20):
            twin.accepted([ComputeTask(noop, uid=f"number-{moment}-{at}") for at in range(10)], moment)
        monkeypatch.setattr(os, "ftruncate", broken)

        with no_room_behind(path.stat().st_size + 1_000), pytest.raises(JournalError, match=f"cannot write {path}"):
            twin.journal.commit()
        left = path.stat().st_size
        twin.journal.commit()
        twin.journal.close()

        assert left > 1_000
        assert sorted(found.name for found in path.parent.glob("*.log")) == ["000001.log", "000002.log"]
        assert twin.read_back() == twin.expected

    def test_a_journal_that_cannot_be_begun_names_the_folder(self, tmp_path: Path) -> None:
        with pytest.raises(JournalError, match=f"cannot begin the journal {tmp_path}/absent/journal: No such file"):
            Journal.create(tmp_path / "absent", RUN)

    def test_a_journal_is_never_begun_twice(self, tmp_path: Path) -> None:
        Journal.create(tmp_path, RUN).close()

        with pytest.raises(JournalError, match=f"cannot begin the journal {tmp_path}/journal: File exists"):
            Journal.create(tmp_path, {})
        assert read_run(tmp_path) == RUN


class TestSegments:
    def test_a_full_segment_is_followed_by_another(self, tmp_path: Path) -> None:
        twin = Twin(tmp_path, segment_bytes=1_000)
        tasks = [ComputeTask(noop, uid=f"number-{at}") for at in range(300)]

        for first in range(0, 300, 10):
            twin.accepted(tasks[first : first + 10], first)
            twin.journal.commit()
        twin.journal.close()

        *full, last = [path.stat().st_size for path in sorted((tmp_path / "journal").glob("*.log"))]
        assert len(full) == 4
        assert all(1_000 <= size < 1_300 for size in full)
        assert 0 < last < 1_300
        assert twin.read_back() == twin.expected

    def test_only_the_owner_may_look(self, tmp_path: Path) -> None:
        Journal.create(tmp_path, RUN).close()

        path = only_segment(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

    def test_what_is_recorded_after_closing_is_refused(self, tmp_path: Path) -> None:
        journal = Journal.create(tmp_path, RUN)
        journal.close()
        journal.close()

        journal.accepted([ComputeTask(noop)], 1)
        with pytest.raises(JournalError, match="which is closed"):
            journal.commit()


class TestDurability:
    def test_a_killed_process_loses_nothing_that_was_committed(self, tmp_path: Path) -> None:
        command = [sys.executable, "-c", textwrap.dedent(CHILD), str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            said = child.stdout.readline()

            child.kill()

        events = list(read_events(tmp_path))
        assert said == "committed\n"
        assert child.returncode == -signal.SIGKILL
        assert [event.state for event in events] == [State.WAITING] * 5_000 + [State.READY] * 5_000

    def test_a_commit_is_brought_to_disk_in_the_background(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = threading.Event()
        threads = []
        real = os.fsync

        def spy(file: int) -> None:
            real(file)
            threads.append(threading.current_thread())
            synced.set()

        journal = Journal.create(tmp_path, RUN)
        monkeypatch.setattr(os, "fsync", spy)
        journal.accepted([ComputeTask(noop)], 1)
        journal.commit()
        came = synced.wait(timeout=10)
        journal.close()

        assert came
        assert threads[0] is not threading.current_thread()
        assert not threads[0].is_alive()

    async def test_an_error_of_fsync_is_raised_by_the_next_commit_and_nothing_is_lost(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_file: int) -> None:  # no disk at hand can be made to fail
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        twin = Twin(tmp_path)
        tasks = [ComputeTask(noop)]
        errors = []

        def commit_fails() -> bool:
            try:
                twin.journal.commit()
            except JournalError as exc:
                errors.append(str(exc))
            return bool(errors)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", broken)
            twin.accepted(tasks, 1)
            await eventually(commit_fails)
        twin.entered(State.READY, tasks, 2)
        twin.journal.close()

        assert f"cannot bring {only_segment(tmp_path)} to disk: Input/output error" in errors[0]
        assert twin.read_back() == twin.expected

    def test_the_thread_ends_when_it_is_asked_to_between_two_of_its_steps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class EndsBeforeClearing(threading.Event):
            """Lets the thread clear its wish for work only after somebody asked it to end."""

            asked = threading.Event()

            def set(self) -> None:
                super().set()
                if ender.is_alive():
                    self.asked.set()

            def clear(self) -> None:
                if not ender.is_alive():
                    ender.start()
                self.asked.wait(timeout=10)
                super().clear()

        monkeypatch.setattr(segments, "SYNC_DELAY_S", 0.0)
        syncer = segments.Syncer()
        syncer._wanted = EndsBeforeClearing()
        ender = threading.Thread(target=syncer.end, daemon=True)

        with (tmp_path / "file").open("wb") as file:
            syncer.watch(file.fileno())
            syncer.start()
            syncer.request(1)
            syncer._thread.join(timeout=10)

            assert not syncer._thread.is_alive()
            ender.join()


NUMBERS = st.integers(-(10**9), 10**9)
MOMENTS = st.integers(0, 2**63 - 1)


def record_something(twin: Twin, tasks: list[ComputeTask], data: st.DataObject) -> None:
    """Let one thing happen to some of the tasks."""
    batch = data.draw(st.lists(st.sampled_from(tasks), unique=True))
    match data.draw(st.sampled_from(["attempt", "enter", "run", "fail", "place", "commit"])):
        case "attempt":
            for task in batch:
                task.attempt += 1
        case "enter":
            state = data.draw(st.sampled_from([State.READY, State.RUNNING, State.DONE]))
            twin.entered(state, batch, [data.draw(MOMENTS) for _ in batch])
        case "run":
            twin.ran(batch, [data.draw(MOMENTS) for _ in batch], [data.draw(MOMENTS) for _ in batch])
        case "fail":
            for task in batch:
                task.failure = Failure(data.draw(st.sampled_from(Cause)), data.draw(st.text()))
            twin.entered(State.UNKNOWN, batch, data.draw(MOMENTS))
        case "place":
            cores = tuple(data.draw(st.sets(st.integers(0, 300))))
            twin.placed([Assignment(on_core(*cores), batch), Assignment(on_core(1), tasks[:1])], data.draw(MOMENTS))
        case _:
            twin.journal.commit()


class TestRoundTrip:
    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_whatever_is_recorded_comes_back(self, data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as name:
            twin = Twin(Path(name), segment_bytes=data.draw(st.integers(1, 2_000)))
            tasks = [
                ComputeTask(noop, priority=number % 1_000_000_000)
                for number in data.draw(st.lists(NUMBERS, min_size=1))
            ]
            twin.accepted(tasks, data.draw(MOMENTS), ready=data.draw(st.booleans()))
            for _ in range(data.draw(st.integers(0, 10))):
                record_something(twin, tasks, data)
            twin.journal.close()

            assert twin.read_back() == twin.expected
            assert [record.priority for record in read_tasks(Path(name))] == [task.priority for task in tasks]


def test_a_journal_that_is_not_wanted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    journal = NullJournal()
    tasks = [ComputeTask(noop)]

    journal.accepted(tasks, 1)
    journal.placed([Assignment(on_core(0), tasks)], 2)
    journal.entered(State.DONE, tasks, 3)
    journal.commit()
    journal.close()

    assert list(tmp_path.iterdir()) == []
