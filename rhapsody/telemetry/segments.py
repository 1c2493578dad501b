"""The files of the journal: one writer that appends, fsync behind its back."""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

from rhapsody.errors import JournalError
from rhapsody.node.files import sync_folder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEGMENT_BYTES = 256 << 20
SYNC_DELAY_S = 0.05
"""From the first write until fsync begins; it leaves as long again for fsync itself to be done within 100 ms."""


class SegmentWriter:
    """Writes to the newest segment, begins the next one when it is full or broken, and brings all to disk.

    What is not on disk yet is remembered: after an error of fsync, which may have lost it, it is written once more into
    a new segment.

    Args:
        folder: Gets the segments; made if it does not exist.
        segment_bytes: Size from which on a new segment is begun.
        suffix: Of the segments' names.
        count: Segments that are there already.

    Raises:
        JournalError: The folder or the first segment could not be made.
    """

    def __init__(self, folder: Path, segment_bytes: int, *, suffix: str = ".log", count: int = 0) -> None:
        self._folder = folder
        self._frames = 0
        self._segment_bytes = segment_bytes
        self._suffix = suffix
        self._count = count
        self._file = -1
        self._size = 0
        self._floor = 0
        """Bytes of the segment that are written once more, in place: they can be read meanwhile."""
        self._unsynced: deque[tuple[int, list[bytes]]] = deque()
        """Frames that were written and are not known to be on disk, each batch with how many there were with it."""
        self._doubtful = False
        """Whether the last fsync failed: the next one is waited for."""
        self._syncer = Syncer()
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            sync_folder(folder.parent)
            self._begin()
        except OSError as exc:
            if self._file >= 0:
                os.close(self._file)
            raise JournalError(f"cannot begin the journal {folder}: {exc.strerror}") from exc
        self._syncer.start()

    def watch_for_errors(self, on_error: Callable[[], object]) -> None:
        """Have `on_error` called, from another thread, when an fsync fails: the next `write` raises why."""
        self._syncer.on_error = on_error

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._syncer.ended

    def write(self, frames: list[bytes]) -> None:
        """Write frames and take them off the list; after an error those that are not written are still on it.

        Raises:
            JournalError: No room, an error of the file system, or one of an earlier fsync.
        """
        self._take_sync_error(frames)
        if not frames:
            return
        if self.closed:
            raise JournalError(f"{len(frames)} frames for the journal {self._folder}, which is closed")
        data = memoryview(b"".join(frames))
        written = 0
        try:
            if self._file < 0 or self._size >= self._segment_bytes:
                self._roll()
            while written < len(data):
                written += os.pwrite(self._file, data[written:], self._size + written)
            if self._doubtful:
                os.fsync(self._file)
        except OSError as exc:
            place = f"{self._path} at byte {self._size + written}"
            self._take_back(frames, written)
            hint = "make room and commit again: nothing is lost yet"
            raise JournalError(f"cannot write {place}: {exc.strerror}; {hint}") from exc
        self._doubtful = False
        self._size += written
        self._floor = 0
        self._frames += len(frames)
        self._unsynced.append((self._frames, frames.copy()))
        frames.clear()
        self._syncer.request(self._frames)
        while self._unsynced[0][0] <= self._syncer.synced:
            self._unsynced.popleft()

    def close(self) -> None:
        """End the thread, bring everything to disk and close the file.

        Raises:
            JournalError: It could not be brought to disk.
        """
        self._syncer.end()
        try:
            if (error := self._syncer.take_error()) is not None:
                raise self._sync_error(error) from error
        finally:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._count:06d}{self._suffix}"

    def _take_sync_error(self, frames: list[bytes]) -> None:
        """Put what an fsync may have lost before `frames`, to be written once more.

        Raises:
            JournalError: An fsync failed.
        """
        error = self._syncer.take_error()
        if error is None:
            return
        failed = self._sync_error(error)
        self._doubtful = True
        again = list(chain.from_iterable(batch for count, batch in self._unsynced if count > self._syncer.synced))
        self._frames -= len(again)
        self._unsynced.clear()
        frames[:0] = again
        if self._file >= 0:
            self._start_over(sum(map(len, again)))
        raise failed from error

    def _sync_error(self, error: OSError) -> JournalError:
        return JournalError(
            f"cannot bring {self._path} to disk: {error.strerror}; until that works the last events may not outlive"
            " this node"
        )

    def _start_over(self, size: int) -> None:
        """Leave the segment to the reader as it is; one of which nothing has come to disk is written over.

        Args:
            size: Bytes that are written once more.
        """
        if size == self._size:
            self._floor, self._size = self._size, 0
            self._syncer.watch(self._file)
        else:
            self._abandon()

    def _roll(self) -> None:
        """Begin the next segment once the full one is on disk: so no segment but the last ever breaks off."""
        full = self._file
        if full >= 0:
            try:
                os.fsync(full)
            except OSError as exc:  # what it has lost is written once more
                self._syncer.fail(exc)
                raise
            self._unsynced.clear()
        try:
            self._begin()
        finally:
            if full >= 0 and self._file != full:
                os.close(full)

    def _begin(self) -> None:
        path = self._folder / f"{self._count + 1:06d}{self._suffix}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file = file
        self._count += 1
        self._size = self._floor = 0
        self._syncer.watch(file)
        sync_folder(self._folder)

    def _take_back(self, frames: list[bytes], written: int) -> None:
        """Cut off what was written of `frames`; where even that fails, leave the segment and keep whole frames."""
        if self._file < 0:
            return
        try:
            os.ftruncate(self._file, max(self._size, self._floor))
        except OSError:
            whole = 0
            while whole < len(frames) and written >= len(frames[whole]):
                written -= len(frames[whole])
                whole += 1
            self._frames += whole
            self._unsynced.append((self._frames, frames[:whole]))
            del frames[:whole]
            if (error := self._abandon()) is not None:
                self._syncer.fail(error)

    def _abandon(self) -> OSError | None:
        """Close the segment, of which the caller is about to tell an error; return that of the last fsync."""
        self._syncer.watch(-1)
        error = None
        try:
            os.fsync(self._file)
        except OSError as exc:
            error = exc
        os.close(self._file)
        self._file = -1
        return error


class Syncer:
    """A thread that brings a file to disk soon after something was written; it sleeps while nothing is.

    Attributes:
        synced: Frames that are on disk.
    """

    def __init__(self) -> None:
        self.ended = False
        self.on_error: Callable[[], object] = lambda: None
        """Called from the thread when an fsync failed; the next write tells why."""
        self.synced = 0
        self._frames = 0
        self._file = -1
        self._held = threading.Lock()
        """Held during fsync, so that the file is not closed meanwhile."""
        self._wanted = threading.Event()
        self._ending = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="rhapsody-journal", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def watch(self, file: int) -> None:
        """Bring this file to disk from now on; -1: none."""
        with self._held:
            self._file = file

    def request(self, frames: int) -> None:
        """Ask for an fsync of what is written by now: so many frames."""
        self._frames = frames
        if not self._wanted.is_set():
            self._wanted.set()

    def take_error(self) -> OSError | None:
        """Return the error of an fsync that was not told yet; nothing is watched then, and nothing asked for."""
        if self._error is None:  # most often
            return None
        with self._held:  # or an fsync just now, of pages that the failed one has dropped, would count
            error, self._error = self._error, None
            self._file, self._frames = -1, self.synced
        return error

    def fail(self, error: OSError) -> None:
        """Take the error of an fsync that somebody else has tried."""
        with self._held:
            self._error = error

    def end(self) -> None:
        """End the thread and do what it has not done yet."""
        self._ending.set()
        self._wanted.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self.ended:
            self.ended = True
            self._sync()

    def _run(self) -> None:
        while not self._ending.is_set():  # asked last, behind the clearing: `end` sets this one first
            self._wanted.wait()
            self._ending.wait(SYNC_DELAY_S)
            self._wanted.clear()  # before the fsync: what is written during it asks for another
            self._sync()

    def _sync(self) -> None:
        with self._held:
            if self._file < 0 or self._error is not None:  # until that is taken, `synced` must not go beyond it
                return
            frames = self._frames
            try:
                os.fsync(self._file)
            except OSError as exc:
                self._error = exc
                self.on_error()
                return
            self.synced = frames
