"""What a worker was given and what came of it, in memory that outlives both worker and session.

A guardian makes each worker's page (see `wire`) and notebook before it forks the worker, and keeps them. The worker
notes each chunk before it starts it, and results before it sends them. When the session dies, the guardian writes what
it holds into one file, from which a resumed run learns what really ran.

A notebook is two buffers. A chunk and its results stand in one of them; when the session has in its journal all that
the older one tells, that is emptied and becomes the newer one. So it holds about two chunks, whatever a run's length.
"""

from __future__ import annotations

import contextlib
import hashlib
import marshal
import mmap
import os
import stat
import struct
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends import wire
from rhapsody.node.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_BLOCK = struct.Struct("<QQ")
"""Head of a block: bytes that follow, and the first sequence number of a chunk, or 0 for results."""
_LENGTH = struct.Struct("<Q")
_WORD = struct.Struct("<Q")
_WORDS = struct.Struct(f"<{wire.OUTBOX // 8}Q")
_MAGIC = b"RHAPSODY LEFT 1\n"
_DIGEST_BYTES = 32
_PIECE_BYTES = 1 << 22
_MAPPED_BYTES = 1 << 16
"""So much of a buffer is written without a system call; the memory behind it is given back when it is emptied."""


class Descriptors(NamedTuple):
    """Memory that a guardian made for a worker.

    Attributes:
        page: The shared page.
        buffers: The two buffers of the notebook.
    """

    page: int
    buffers: tuple[int, int]

    def close(self) -> None:
        """Let go of the memory; it is freed when the last process does."""
        for descriptor in (self.page, *self.buffers):
            os.close(descriptor)


class Notebook:
    """A worker's notebook, as the worker writes it.

    When it cannot be written, memory being short, it is given up and says so in the page: the worker goes on.

    Args:
        buffers: Descriptors of the two buffers.
        words: Of the worker's page: they say how far each buffer is valid, so that no half-written block is read.
    """

    def __init__(self, buffers: tuple[int, int], words: memoryview) -> None:
        self._buffers = buffers
        self._mapped = [mmap.mmap(descriptor, _MAPPED_BYTES) for descriptor in buffers]
        self._words = words
        self._newer = 0
        self._ends = [0, 0]
        self._last = [0, 0]
        """Last sequence number that each buffer speaks of."""
        self._given_up = False

    def begin(self, first: int, count: int, heads: bytes, settled: int) -> None:
        """Note a chunk, and drop what nobody will ask for any more.

        Args:
            first: Sequence number of its first task.
            count: Tasks in it.
            heads: Their numbers, attempts and items, marshalled.
            settled: Last sequence number whose result the session has in its journal.
        """
        older = 1 - self._newer
        if self._last[older] <= settled:
            self._empty(older)
            self._newer = older
        self._last[self._newer] = first + count - 1
        self._append(first, heads)

    def add(self, *records: bytes | memoryview) -> None:
        """Note results of the newest chunk, as they will be sent."""
        self._append(0, *records)

    def _empty(self, buffer: int) -> None:
        self._words[wire.NOTED + buffer] = 0
        if self._ends[buffer] > _MAPPED_BYTES:
            os.ftruncate(self._buffers[buffer], _MAPPED_BYTES)
        self._ends[buffer] = 0

    def _append(self, first: int, *parts: bytes | memoryview) -> None:
        if self._given_up:
            return
        length, newer = sum(map(len, parts)), self._newer
        begin = self._ends[newer]
        end = begin + _BLOCK.size + length
        if end <= _MAPPED_BYTES:
            mapped = self._mapped[newer]
            _BLOCK.pack_into(mapped, begin, length, first)
            begin += _BLOCK.size
            for part in parts:
                mapped[begin : begin + len(part)] = part
                begin += len(part)
        elif not self._write(newer, begin, (_BLOCK.pack(length, first), *parts)):
            self._given_up = True
            self._words[wire.UNNOTED] = 1
            return
        self._ends[newer] = end
        self._words[wire.NOTED + newer] = end

    def _write(self, buffer: int, offset: int, parts: Sequence[bytes | memoryview]) -> bool:
        """Write behind what is mapped; return whether that could be done."""
        try:
            return os.pwritev(self._buffers[buffer], parts, offset) == sum(map(len, parts))
        except OSError:
            return False


class Notes:
    """A worker's page and notebook, as its guardian keeps them.

    Raises:
        OSError: There is no memory, or there are no descriptors for them.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as stack:
            made = []
            for name in ("page", "notes-0", "notes-1"):
                made.append(os.memfd_create(f"rhapsody-{name}", os.MFD_CLOEXEC))
                stack.callback(os.close, made[-1])
            for descriptor, size in zip(made, (wire.PAGE_BYTES, _MAPPED_BYTES, _MAPPED_BYTES), strict=True):
                os.ftruncate(descriptor, size)
            stack.pop_all()
        self.descriptors = Descriptors(made[0], (made[1], made[2]))
        """For the worker to take over."""

    def say_pool_is_gone(self) -> None:
        """Let the worker start no further task: skip whatever comes."""
        page = self.descriptors.page
        os.pwrite(page, _WORD.pack(1), wire.GONE * 8)
        os.pwrite(page, _WORD.pack(wire.NONE_YET), wire.SKIP_UNTIL * 8)
        os.pwrite(page, _WORD.pack(0), wire.SKIP_FROM * 8)

    @property
    def words(self) -> tuple[int, ...]:
        """The words of the page."""
        return _WORDS.unpack(os.pread(self.descriptors.page, wire.OUTBOX, 0))

    def pieces(self) -> Iterator[bytes]:
        """Yield what it holds, framed: the page's words, the two buffers, the outbox; the worker must be dead."""
        words = self.words
        yield _LENGTH.pack(wire.OUTBOX) + _WORDS.pack(*words)
        for buffer, descriptor in enumerate(self.descriptors.buffers):
            yield from _part(descriptor, 0, words[wire.NOTED + buffer])
        yield from _part(self.descriptors.page, wire.OUTBOX, words[wire.COMMITTED])

    def close(self) -> None:
        """Let go of the memory."""
        self.descriptors.close()


def _part(descriptor: int, offset: int, length: int) -> Iterator[bytes]:
    yield _LENGTH.pack(length)
    end = offset + length
    while offset < end:
        piece = os.pread(descriptor, min(_PIECE_BYTES, end - offset), offset)
        if not piece:
            raise OSError(f"a notebook of {length:,} bytes ends {end - offset:,} bytes early")
        yield piece
        offset += len(piece)


def write_left(path: Path, kept: Sequence[Notes], *, complete: bool) -> None:
    """Write what workers have noted to a file, whole or not at all, for this user only.

    Args:
        path: Of the file.
        kept: Of all workers, living or dead, whose results may not be in the journal; all must have ended.
        complete: Whether these are all.

    Raises:
        OSError: It could not be written; nothing of it is left.
    """
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    complete = complete and not any(notes.words[wire.UNNOTED] for notes in kept)
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            for piece in _file_pieces(kept, complete=complete):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _file_pieces(kept: Sequence[Notes], *, complete: bool) -> Iterator[bytes]:
    yield _MAGIC
    head = marshal.dumps((complete, len(kept)))
    yield _LENGTH.pack(len(head)) + head
    for notes in kept:
        yield from notes.pieces()


class NotedChunk(NamedTuple):
    """A chunk that a worker received.

    Attributes:
        first: Sequence number of its first task.
        numbers: Of the tasks.
        attempts: Of each; one number when it is the same for all.
        items: For an array task, the range of its items.
    """

    first: int
    numbers: list[int]
    attempts: list[int] | int
    items: tuple[int, int] | None


class WorkerNotes(NamedTuple):
    """What one worker has noted.

    Attributes:
        words: Of its page.
        chunks: That it received, in order.
        records: Its results as it sent them, in order; the last ones may come twice.
    """

    words: tuple[int, ...]
    chunks: list[NotedChunk]
    records: bytes


class Left(NamedTuple):
    """What the workers of a session left.

    Attributes:
        workers: What each has noted.
        complete: Whether these are all that may have ended or run without the session knowing.
    """

    workers: list[WorkerNotes]
    complete: bool


def read_left(path: Path) -> Left:
    """Read what `write_left` wrote.

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or others than this user could have written or read it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise ValueError("it does not belong to this user alone")
        data = file.read()
    body = memoryview(data)[:-_DIGEST_BYTES]
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin as such a file does")
    if hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest() != data[-_DIGEST_BYTES:]:
        raise ValueError("its checksum does not match")
    frames = _frames(body[len(_MAGIC) :])
    try:
        complete, count = marshal.loads(next(frames))  # noqa: S302 - our own file, and whole
        workers = [_worker_notes(*(next(frames) for _ in range(4))) for _ in range(count)]
    except (StopIteration, RuntimeError, struct.error, EOFError, TypeError) as exc:
        raise ValueError(f"it cannot be understood: {type(exc).__name__}: {exc}") from exc
    return Left(workers, complete)


def _frames(data: memoryview) -> Iterator[memoryview]:
    offset = 0
    while offset < len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        offset += _LENGTH.size
        yield data[offset : offset + length]
        offset += length


def _worker_notes(words: memoryview, first: memoryview, second: memoryview, outbox: memoryview) -> WorkerNotes:
    buffers = sorted((_blocks(first), _blocks(second)), key=lambda read: read[0][0].first if read[0] else 0)
    (older, early), (newer, late) = buffers
    return WorkerNotes(_WORDS.unpack(words), older + newer, b"".join([*early, *late, outbox]))


def _blocks(buffer: memoryview) -> tuple[list[NotedChunk], list[memoryview]]:
    chunks: list[NotedChunk] = []
    records: list[memoryview] = []
    offset = 0
    while offset < len(buffer):
        length, first = _BLOCK.unpack_from(buffer, offset)
        offset += _BLOCK.size
        block = buffer[offset : offset + length]
        if first:
            chunks.append(NotedChunk(first, *marshal.loads(block)))  # noqa: S302 - our own file, and whole
        else:
            records.append(block)
        offset += length
    return chunks, records
