"""A disk that fails for a while: what is not known to be on it is written once more, and nothing comes twice."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.telemetry import segments
from rhapsody.telemetry.frames import Entered, encode_frame
from rhapsody.telemetry.scan import Scan
from rhapsody.telemetry.segments import SegmentWriter, Syncer
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rhapsody.telemetry.scan import JournalTail

ERRORS = [errno.EIO, errno.ENOSPC, errno.EDQUOT]


def frames(*indices: int) -> list[bytes]:
    return [encode_frame(index, Entered(1, State.READY, index, 0, index, [])) for index in indices]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.log"))


def read_back(folder: Path) -> list[int]:
    """Return the indices that a reader finds; damage is an error."""
    return [frame.index for _, frame in Scan(folder)]


class Disk:
    """The disk under a writer, which can be made to fail: no real one at hand can.

    Attributes:
        error: What every fsync of a file fails with, or None.
        full: What every pwrite fails with once it has written `room` more bytes, or None.
        is_stiff: Whether no file can be shortened.
    """

    def __init__(self) -> None:
        self.error: int | None = None
        self.full: int | None = None
        self.room = 0
        self.is_stiff = False
        self._fsync, self._pwrite, self._ftruncate = os.fsync, os.pwrite, os.ftruncate

    def fsync(self, file: int) -> None:
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        self._fsync(file)

    def pwrite(self, file: int, data: memoryview, offset: int) -> int:
        if self.full is None:
            return self._pwrite(file, data, offset)
        if self.room == 0:
            raise OSError(self.full, os.strerror(self.full))
        count = self._pwrite(file, data[: self.room], offset)
        self.room -= count
        return count

    def ftruncate(self, file: int, size: int) -> None:
        if self.is_stiff:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._ftruncate(file, size)


@contextmanager
def a_disk() -> Iterator[Disk]:
    disk = Disk()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "SYNC_DELAY_S", 0.0)
        for name in ("fsync", "pwrite", "ftruncate"):
            patch.setattr(os, name, getattr(disk, name))
        yield disk


@pytest.fixture
def disk() -> Iterator[Disk]:
    with a_disk() as found:
        yield found


class Writer:
    """A writer, and what was given to it; it is asked to write again and again, as the session does."""

    def __init__(self, folder: Path, segment_bytes: int = 1 << 20) -> None:
        self.folder = folder / "journal"
        self.segments = SegmentWriter(self.folder, segment_bytes)
        self.todo: list[bytes] = []
        self.given = 0
        self.errors: list[str] = []

    def give(self, count: int = 1) -> None:
        self.todo += frames(*range(self.given, self.given + count))
        self.given += count

    def write(self) -> bool:
        """Try to write what is to be written; return whether that worked."""
        try:
            self.segments.write(self.todo)
        except JournalError as exc:
            self.errors.append(str(exc))
            return False
        return True

    def is_told(self) -> bool:
        """Write; return whether an error has been told by now."""
        return not self.write() or bool(self.errors)

    def is_on_disk(self) -> bool:
        """Whether all that was given is on disk, as far as is known."""
        return self.segments._syncer.synced == self.given

    def close(self) -> None:
        self.write()
        self.write()
        self.segments.close()


@pytest.fixture
def writer(tmp_path: Path, disk: Disk) -> Iterator[Writer]:
    made = Writer(tmp_path)
    yield made
    disk.error = disk.full = None
    made.segments.close()


class TestFsync:
    @pytest.mark.parametrize("error", ERRORS)
    async def test_its_error_is_told_with_the_file(self, error: int, writer: Writer, disk: Disk) -> None:
        writer.give()

        disk.error = error
        await eventually(writer.is_told)

        assert writer.errors[0].startswith(
            f"cannot bring {writer.folder}/000001.log to disk: {os.strerror(error)}; until"
        )

    @pytest.mark.parametrize("error", ERRORS)
    async def test_nothing_is_lost_and_nothing_comes_twice(self, error: int, writer: Writer, disk: Disk) -> None:
        writer.give(3)
        writer.write()
        await eventually(writer.is_on_disk)

        disk.error = error
        writer.give(3)
        await eventually(writer.is_told)
        disk.error = None
        writer.give(2)
        writer.close()

        assert read_back(writer.folder) == list(range(8))
        assert files(writer.folder) == ["000001.log", "000002.log"]

    async def test_what_it_may_have_lost_is_in_the_next_segment_once_more(self, writer: Writer, disk: Disk) -> None:
        writer.give(3)
        writer.write()
        await eventually(writer.is_on_disk)
        size = (writer.folder / "000001.log").stat().st_size

        disk.error = errno.EIO
        writer.give(2)
        await eventually(writer.is_told)
        disk.error = None
        writer.close()
        with (writer.folder / "000001.log").open("r+b") as file:  # as after a power cut
            file.truncate(size)

        assert read_back(writer.folder) == list(range(5))

    async def test_there_is_one_more_segment_however_often_it_fails(self, writer: Writer, disk: Disk) -> None:
        writer.give(3)
        writer.write()
        await eventually(writer.is_on_disk)

        disk.error = errno.EIO
        for _ in range(20):
            writer.errors.clear()
            writer.give()
            await eventually(writer.is_told)
        disk.error = None
        writer.close()

        assert files(writer.folder) == ["000001.log", "000002.log"]
        assert read_back(writer.folder) == list(range(23))

    async def test_each_time_that_it_fails_costs_one_segment(self, writer: Writer, disk: Disk) -> None:
        for _ in range(3):
            writer.give()
            await eventually(lambda: writer.write() and writer.is_on_disk())
            writer.errors.clear()
            disk.error = errno.ENOSPC
            writer.give()
            await eventually(writer.is_told)
            disk.error = None
        writer.close()

        assert len(files(writer.folder)) <= 4
        assert read_back(writer.folder) == list(range(6))

    async def test_a_first_segment_of_which_nothing_is_on_disk_is_used_again(self, writer: Writer, disk: Disk) -> None:
        disk.error = errno.EIO
        for _ in range(5):
            writer.errors.clear()
            writer.give()
            await eventually(writer.is_told)
        disk.error = None
        writer.close()

        assert files(writer.folder) == ["000001.log"]
        assert read_back(writer.folder) == list(range(5))

    async def test_what_was_written_can_be_read_while_it_is_not_written_once_more(
        self, writer: Writer, disk: Disk
    ) -> None:
        writer.give(4)
        writer.write()

        disk.error = errno.EIO
        await eventually(writer.is_told)

        assert len(writer.todo) == 4
        assert read_back(writer.folder) == [0, 1, 2, 3]

    async def test_it_can_be_read_even_when_there_is_no_room_to_write_it_once_more(
        self, writer: Writer, disk: Disk
    ) -> None:
        writer.give(4)
        writer.write()
        disk.error = errno.EIO
        await eventually(writer.is_told)
        disk.error = None

        disk.full, disk.room = errno.ENOSPC, 50
        writer.give(2)
        worked = writer.write()

        assert not worked
        assert read_back(writer.folder) == [0, 1, 2, 3]
        disk.full = None
        writer.close()
        assert read_back(writer.folder) == [0, 1, 2, 3, 4, 5]

    async def test_a_full_segment_that_does_not_come_to_disk_is_written_once_more(
        self, tmp_path: Path, disk: Disk
    ) -> None:
        writer = Writer(tmp_path, segment_bytes=200)
        held = HeldBack()
        writer.segments._syncer._held = held  # type: ignore[assignment] # no fsync but that of the writer
        with held.back():
            writer.give(8)
            writer.write()
            disk.error = errno.EIO
            writer.give()
            worked = writer.write()
            disk.error = None
        writer.write()
        writer.close()

        assert not worked
        assert writer.errors[0].startswith(f"cannot write {writer.folder}/000001.log")
        assert f"cannot bring {writer.folder}/000001.log to disk" in writer.errors[1]
        assert read_back(writer.folder) == list(range(9))

    def test_an_error_at_the_end_is_told(self, tmp_path: Path, disk: Disk) -> None:
        writer = Writer(tmp_path)
        writer.give(2)
        writer.write()

        disk.error = errno.EDQUOT
        with pytest.raises(JournalError, match="to disk: "):
            writer.segments.close()

        assert read_back(writer.folder) == [0, 1]
        assert writer.segments.closed


class HeldBack:
    """A lock that lets the thread that syncs wait, and the one that writes pass."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._lock = threading.RLock()
        self._writer = threading.get_ident()

    @contextmanager
    def back(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    def __enter__(self) -> None:
        if threading.get_ident() != self._writer:
            self._open.wait(timeout=10)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class TestWriting:
    @pytest.mark.parametrize("error", ERRORS)
    @pytest.mark.parametrize("room", [0, 1, 47, 48, 100])
    def test_what_does_not_fit_is_written_when_there_is_room(
        self, error: int, room: int, writer: Writer, disk: Disk
    ) -> None:
        writer.give(2)
        writer.write()
        size = (writer.folder / "000001.log").stat().st_size

        disk.full, disk.room = error, room
        writer.give(4)
        worked = writer.write()
        meanwhile = read_back(writer.folder)
        disk.full = None
        writer.close()

        assert not worked
        assert (
            f"cannot write {writer.folder}/000001.log at byte {size + room}: {os.strerror(error)}" in writer.errors[0]
        )
        assert "nothing is lost yet" in writer.errors[0]
        assert meanwhile == [0, 1]
        assert read_back(writer.folder) == list(range(6))
        assert files(writer.folder) == ["000001.log"]

    @pytest.mark.parametrize("room", [0, 30, 100])
    def test_a_segment_that_cannot_be_shortened_is_left_and_nothing_comes_twice(
        self, room: int, writer: Writer, disk: Disk
    ) -> None:
        writer.give(2)
        writer.write()

        disk.full, disk.room, disk.is_stiff = errno.EIO, room, True
        writer.give(4)
        writer.write()
        disk.full, disk.is_stiff = None, False
        writer.close()

        assert read_back(writer.folder) == list(range(6))
        assert files(writer.folder) == ["000001.log", "000002.log"]

    def test_what_it_left_there_is_written_once_more_when_that_does_not_come_to_disk_either(
        self, writer: Writer, disk: Disk
    ) -> None:
        writer.give(2)
        writer.write()

        disk.full, disk.room, disk.is_stiff, disk.error = errno.EIO, 100, True, errno.EIO
        writer.give(4)
        writer.write()
        disk.full, disk.is_stiff, disk.error = None, False, None
        writer.close()
        (writer.folder / "000001.log").write_bytes(b"")  # as after a power cut

        assert read_back(writer.folder) == list(range(6))

    def test_a_new_segment_that_cannot_be_begun_is_begun_later(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> int:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

        writer = Writer(tmp_path, segment_bytes=100)
        writer.give(4)
        writer.write()

        writer.give(2)
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", refused)
            worked = writer.write()
        writer.close()

        assert not worked
        assert os.strerror(errno.EDQUOT) in writer.errors[0]
        assert read_back(writer.folder) == list(range(6))
        assert files(writer.folder) == ["000001.log", "000002.log"]


class TestSyncer:
    def test_an_fsync_while_an_error_is_told_does_not_count(self, tmp_path: Path, disk: Disk) -> None:
        syncer = Syncer()
        with (tmp_path / "file").open("wb") as file:
            syncer.watch(file.fileno())
            syncer.request(5)
            disk.error = errno.EIO
            syncer._sync()
            disk.error = None

            error = syncer.take_error()
            syncer._sync()

        assert error is not None
        assert syncer.synced == 0

    def test_nothing_is_synced_until_the_error_is_told(self, tmp_path: Path, disk: Disk) -> None:
        syncer = Syncer()
        with (tmp_path / "file").open("wb") as file:
            syncer.watch(file.fileno())
            syncer.request(5)
            disk.error = errno.EIO
            syncer._sync()
            disk.error = None

            syncer._sync()

        assert syncer.synced == 0
        assert syncer.take_error() is not None
        assert syncer.take_error() is None


STEPS: dict[str, Callable[[Disk], None]] = {
    "fsync fails": lambda disk: setattr(disk, "error", errno.EIO),
    "no room": lambda disk: setattr(disk, "full", errno.ENOSPC),
    "a little room": lambda disk: disk.__dict__.update(full=errno.ENOSPC, room=60),
    "cannot be shortened": lambda disk: setattr(disk, "is_stiff", True),
    "all is well": lambda disk: disk.__dict__.update(error=None, full=None, is_stiff=False, room=0),
}


class TestWhateverHappens:
    @settings(max_examples=60, deadline=None)
    @given(
        steps=st.lists(st.sampled_from(["give", "write", "sync", *STEPS]), max_size=25),
        segment_bytes=st.sampled_from([100, 300, 1 << 20]),
    )
    def test_what_was_written_is_read_once_and_in_order(self, steps: list[str], segment_bytes: int) -> None:
        with tempfile.TemporaryDirectory() as name, a_disk() as disk:
            writer = Writer(Path(name), segment_bytes)
            for step in steps:
                match step:
                    case "give":
                        writer.give(2)
                    case "write":
                        told = read_back_prefix(writer.folder)
                        writer.write()
                        assert read_back_prefix(writer.folder) >= told  # nothing that could be read is gone
                    case "sync":
                        writer.segments._syncer._sync()
                    case _:
                        STEPS[step](disk)
            STEPS["all is well"](disk)
            for _ in range(4):
                writer.write()
            assert writer.todo == []
            writer.segments.close()

            assert read_back_prefix(writer.folder) == writer.given


def read_back_prefix(folder: Path) -> int:
    """Return how many frames a reader finds, from the first on; damage is an error."""
    damages: list[JournalTail] = []
    found = [frame.index for _, frame in Scan(folder, on_damage=damages.append)]
    assert damages == []
    assert found == list(range(len(found)))
    return len(found)
