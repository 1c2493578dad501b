"""What a worker notes: bounded, valid up to any instant, and written down whole or not at all."""

from __future__ import annotations

import marshal
import mmap
import os
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.backends import wire
from rhapsody.backends.notebook import Notebook, Notes, read_left, write_left

if TYPE_CHECKING:
    from collections.abc import Iterator


class Desk:
    """A notebook as worker and guardian hold it."""

    def __init__(self) -> None:
        self.notes = Notes()
        self.page = mmap.mmap(self.notes.descriptors.page, wire.PAGE_BYTES)
        self.words = wire.page_words(self.page)
        self.notebook = Notebook(self.notes.descriptors.buffers, self.words)

    def chunk(self, first: int, count: int, *, settled: int = 0) -> None:
        """Note a chunk of tasks whose numbers are their sequence numbers."""
        heads = marshal.dumps((list(range(first, first + count)), 1, None))
        self.notebook.begin(first, count, heads, settled)

    def result(self, sequence: int, data: bytes = b"") -> None:
        """Note a result."""
        self.notebook.add(wire.RECORD.pack(sequence, 1, 2, len(data), wire.SCALARS), data)

    @property
    def held_bytes(self) -> int:
        """Memory that the buffers take."""
        return sum(os.fstat(descriptor).st_size for descriptor in self.notes.descriptors.buffers)

    def close(self) -> None:
        """Let go of everything."""
        self.words.release()
        self.page.close()
        self.notes.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.close()


def test_notes_come_back_from_the_file_as_they_were_made(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 2)
    desk.result(1, b"one")
    desk.chunk(3, 1)
    desk.result(3, b"three")

    write_left(tmp_path / "left", [desk.notes], complete=True)

    left = read_left(tmp_path / "left")
    (worker,) = left.workers
    assert left.complete
    assert [(chunk.first, chunk.numbers, chunk.attempts, chunk.items) for chunk in worker.chunks] == [
        (1, [1, 2], 1, None),
        (3, [3], 1, None),
    ]
    assert worker.records.count(b"one") == worker.records.count(b"three") == 1


def test_outbox_stands_behind_what_was_noted(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 2)
    desk.result(1, b"noted")
    record = wire.RECORD.pack(2, 1, 2, 6, wire.SCALARS) + b"unsent"
    desk.page[wire.OUTBOX : wire.OUTBOX + len(record)] = record
    desk.words[wire.COMMITTED] = len(record)

    write_left(tmp_path / "left", [desk.notes], complete=True)

    records = read_left(tmp_path / "left").workers[0].records
    assert records.endswith(record)
    assert records.index(b"noted") < records.index(b"unsent")


@settings(deadline=None, max_examples=60)
@given(chunks=st.lists(st.tuples(st.integers(1, 5), st.integers(0, 400), st.integers(0, 3)), min_size=1, max_size=40))
def test_whatever_is_unsettled_is_noted_and_little_else(chunks: list[tuple[int, int, int]]) -> None:
    desk = Desk()
    settled, first = 0, 1
    lasts: list[int] = []
    for count, size, lag in chunks:  # the session has read all but the last chunks when it sends another
        settled = max(settled, lasts[-1 - lag] if lag < len(lasts) else 0)
        desk.chunk(first, count, settled=settled)
        for sequence in range(first, first + count):
            desk.result(sequence, bytes(size))
        lasts.append(first + count - 1)
        first += count

    with tempfile.TemporaryDirectory() as folder:
        write_left(Path(folder) / "left", [desk.notes], complete=True)
        (worker,) = read_left(Path(folder) / "left").workers
    desk.close()
    noted = {number for chunk in worker.chunks for number in chunk.numbers}

    assert noted >= set(range(settled + 1, first))
    assert len(noted) <= 5 * (2 * 4)  # two buffers, each with at most the chunks that are not settled and one more


def test_long_run_holds_the_memory_of_two_chunks(desk: Desk) -> None:
    most = 0
    for sequence in range(1, 200):
        desk.chunk(sequence, 1, settled=sequence - 1)
        desk.result(sequence, bytes(1 << 20))
        most = max(most, desk.held_bytes)

    assert most < 3 << 20


def test_chunk_that_is_not_settled_is_kept_however_many_follow(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 1)
    desk.result(1)
    for sequence in range(2, 50):
        desk.chunk(sequence, 1, settled=0)

    write_left(tmp_path / "left", [desk.notes], complete=True)

    (worker,) = read_left(tmp_path / "left").workers
    assert [chunk.first for chunk in worker.chunks] == list(range(1, 50))


def test_notebook_that_cannot_be_written_is_given_up_and_says_so(tmp_path: Path) -> None:
    desk = Desk()
    read_only = [os.open(f"/proc/self/fd/{each}", os.O_RDONLY) for each in desk.notes.descriptors.buffers]
    desk.notebook._buffers = read_only[0], read_only[1]

    desk.chunk(1, 1)
    desk.result(1, bytes(1 << 20))  # more than is written without a system call

    write_left(tmp_path / "left", [desk.notes], complete=True)
    left = read_left(tmp_path / "left")
    for descriptor in read_only:
        os.close(descriptor)
    desk.close()
    assert not left.complete
    assert [chunk.first for chunk in left.workers[0].chunks] == [1]
    assert left.workers[0].records == b""


def test_half_written_block_is_not_read(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 1)
    desk.result(1, b"whole")
    end = desk.words[wire.NOTED] + desk.words[wire.NOTED + 1]
    desk.result(1, b"killed while it wrote this")
    for word in (wire.NOTED, wire.NOTED + 1):
        desk.words[word] = min(desk.words[word], end)

    write_left(tmp_path / "left", [desk.notes], complete=True)

    assert read_left(tmp_path / "left").workers[0].records.endswith(b"whole")


def test_file_is_for_this_user_only(desk: Desk, tmp_path: Path) -> None:
    write_left(tmp_path / "left", [desk.notes], complete=True)

    assert (tmp_path / "left").stat().st_mode & 0o777 == 0o600


def test_file_that_others_may_read_is_not_trusted(desk: Desk, tmp_path: Path) -> None:
    write_left(tmp_path / "left", [desk.notes], complete=True)
    (tmp_path / "left").chmod(0o640)

    with pytest.raises(ValueError, match="belong to this user alone"):
        read_left(tmp_path / "left")


def test_link_is_not_followed(desk: Desk, tmp_path: Path) -> None:
    write_left(tmp_path / "elsewhere", [desk.notes], complete=True)
    (tmp_path / "left").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(OSError, match="symbolic links"):
        read_left(tmp_path / "left")


def test_any_flipped_bit_and_any_cut_is_noticed(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 1)
    desk.result(1, b"value")
    path = tmp_path / "left"
    write_left(path, [desk.notes], complete=True)
    whole = path.read_bytes()

    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"checksum|begin"):
            read_left(path)
        path.write_bytes(whole[:at])
        with pytest.raises(ValueError, match=r"checksum|begin"):
            read_left(path)


def test_file_that_does_not_fit_leaves_nothing(desk: Desk, tmp_path: Path) -> None:
    desk.chunk(1, 1)
    desk.result(1, bytes(1 << 16))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, before[1]))

    try:
        with pytest.raises(OSError, match="File too large"):
            write_left(tmp_path / "left", [desk.notes], complete=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert list(tmp_path.iterdir()) == []


def test_file_that_an_earlier_try_left_half_written_does_not_matter(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "left.part").write_bytes(b"half")

    write_left(tmp_path / "left", [desk.notes], complete=True)

    assert read_left(tmp_path / "left").complete
    assert not (tmp_path / "left.part").exists()
