"""What commands leave in /dev/shm and in the temporary folder, and removing it.

Programs that are killed leave shared memory behind. What is whose cannot be told afterwards, so it is noted when it is
made: the kernel tells of each new file, and it is this run's if at that moment processes below this agent have it open
or mapped, and no others. Only what was noted so is removed, and only while it is the same file and nobody uses it.

What cannot be known so is left alone: what was closed again, or whose maker had ended, within the instant until it is
looked at; folders; on file systems where mapped files show other device numbers (overlays), what is mapped but not
open. For temporary files the agent has a better way: $TMPDIR of commands is a folder of its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import stat
import struct
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.node.processes import descendants

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

_LINE = re.compile(r"^(\d+) (\d+) (.+)\n", re.MULTILINE)
_IN_CREATE = 0x100
_EVENT = struct.Struct("iIII")  # Source: inotify(7), struct inotify_event
_REST_FACTOR = 10
"""Looking for makers takes at most a tenth of the time, whatever goes on, …"""
_LONGEST_REST_S = 1.0
"""… unless that would let too much pass unseen."""
_libc = ctypes.CDLL(None, use_errno=True)


class Key(NamedTuple):
    """A file, whatever its name.

    Attributes:
        device: Of its file system.
        inode: On that.
    """

    device: int
    inode: int


def watched_folders() -> list[Path]:
    """Return the folders in which programs leave things."""
    return [Path("/dev/shm"), Path(tempfile.gettempdir())]  # noqa: S108 - looked at, not used


class Traces:
    """Notes what processes below one make, until closed.

    Args:
        notes: File to note it in; it is read by `sweep`.
        folders: Where to look; subfolders are not.
        ancestor: Process id of the one above; this process when 0.

    Raises:
        OSError: The kernel does not tell.
    """

    def __init__(self, notes: Path, folders: Collection[Path], ancestor: int = 0) -> None:
        self._ancestor = ancestor or os.getpid()
        self._notes = notes
        self._loop = asyncio.get_running_loop()
        self._folders: dict[int, Path] = {}
        self._new: dict[Key, Path] = {}
        self._look: asyncio.TimerHandle | None = None
        self._rest_until = 0.0
        self._descriptor = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            code = ctypes.get_errno()
            raise OSError(code, f"new files cannot be watched: {os.strerror(code)}")
        for folder in folders:
            watch = _libc.inotify_add_watch(self._descriptor, os.fsencode(folder), _IN_CREATE)
            if watch >= 0:  # else it is not there
                self._folders[watch] = folder
        self._loop.add_reader(self._descriptor, self._hear)

    def look(self) -> None:
        """Look now for the makers of all that is there: they are about to end."""
        self._hear()
        if self._look is not None:
            self._look.cancel()
            self._note_makers()

    def close(self) -> None:
        """Look a last time, then watch no more."""
        self._loop.remove_reader(self._descriptor)
        self.look()
        os.close(self._descriptor)

    def _hear(self) -> None:
        """Take the names of new files, and look for their makers as soon as may be."""
        with suppress(BlockingIOError):
            for folder, name in self._events(os.read(self._descriptor, 1 << 16)):
                path = folder / name
                with suppress(OSError):
                    status = path.lstat()
                    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
                        self._new[Key(status.st_dev, status.st_ino)] = path
        if self._new and self._look is None:
            delay_s = max(0.0, self._rest_until - time.monotonic())
            self._look = self._loop.call_later(delay_s, self._note_makers)

    def _events(self, events: bytes) -> Iterator[tuple[Path, str]]:
        place = 0
        while place < len(events):
            watch, _, _, length = _EVENT.unpack_from(events, place)
            place += _EVENT.size
            name = os.fsdecode(events[place : place + length].rstrip(b"\0"))
            place += length
            if watch in self._folders:  # an overflow of the kernel's queue belongs to none
                yield self._folders[watch], name

    def _note_makers(self) -> None:
        started = time.monotonic()
        self._look = None
        new, self._new = self._new, {}
        _note(self._notes, new, descendants(self._ancestor))
        now = time.monotonic()
        self._rest_until = now + min(_REST_FACTOR * (now - started), _LONGEST_REST_S)


def files_in(folders: Iterable[Path]) -> dict[Key, Path]:
    """Return the files of this user that lie in folders, subfolders left out."""
    found: dict[Key, Path] = {}
    for folder in folders:
        with suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                with suppress(OSError):  # it has just been removed
                    status = entry.stat(follow_symlinks=False)
                    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
                        found[Key(status.st_dev, status.st_ino)] = Path(entry.path)
    return found


def note_new(notes: Path, folders: Iterable[Path], before: Collection[Key]) -> None:
    """Note what has come into folders, and processes below this one use and no others do: whoever watched is dead.

    Args:
        notes: File to note it in; it is read by `sweep`.
        folders: Where to look.
        before: What was there before anything was started.
    """
    new = {key: path for key, path in files_in(folders).items() if key not in before}
    _note(notes, new, descendants(os.getpid()))


def _note(notes: Path, new: Mapping[Key, Path], below: set[int]) -> None:
    """Note those of some files that processes use which are given, and no others do."""
    ours = {key for key, users in users_of(new, below).items() if users}
    others = users_of(ours, own_processes() - below)
    lines = [
        f"{key.device} {key.inode} {new[key]}\n"
        for key, users in others.items()
        if not users and "\n" not in new[key].name
    ]
    if lines:
        with suppress(OSError), notes.open("a") as file:
            file.write("".join(lines))


def sweep(notes: Path) -> list[Path]:
    """Remove what was noted and is still the same and used by nobody; return it."""
    noted: dict[Key, Path] = {}
    with suppress(OSError):
        for line in _LINE.finditer(notes.read_text()):
            key, path = Key(int(line[1]), int(line[2])), line[3]
            with suppress(OSError):
                status = Path(path).lstat()
                if Key(status.st_dev, status.st_ino) == key and status.st_uid == os.geteuid():
                    noted[key] = Path(path)
    if not noted:
        return []
    removed = []
    for key, users in users_of(noted, own_processes()).items():
        with suppress(OSError):
            if not users:
                noted[key].unlink()
                removed.append(noted[key])
    return removed


def users_of(files: Collection[Key], processes: Iterable[int]) -> dict[Key, set[int]]:
    """Return which of some processes have each of these files open or mapped."""
    users: dict[Key, set[int]] = {key: set() for key in files}
    if not users:
        return users
    wanted = {f" {os.major(key.device):02x}:{os.minor(key.device):02x} {key.inode} ".encode(): key for key in users}
    for pid in processes:
        with suppress(OSError):  # it has ended
            for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208 - thousands, each time something is made
                with suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{descriptor}")  # noqa: PTH116
                    if (key := Key(status.st_dev, status.st_ino)) in users:
                        users[key].add(pid)
            maps = Path(f"/proc/{pid}/maps").read_bytes()
            for text, key in wanted.items():
                if text in maps:
                    users[key].add(pid)
    return users


def own_processes() -> set[int]:
    """Return all processes of this user."""
    own = os.geteuid()
    found = set()
    with os.scandir("/proc") as entries:
        for entry in entries:
            with suppress(OSError):
                if entry.name.isdigit() and entry.stat().st_uid == own:
                    found.add(int(entry.name))
    return found
