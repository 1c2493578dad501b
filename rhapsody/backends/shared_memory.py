"""Files in /dev/shm that a runtime has made: which they are, noted where they are found when the runtime is dead.

A file is known by name and inode: another runtime may have made one of the same name since.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FOLDER = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is; see shm_overview(7)
_NOTE = "shared-memory"


class Segment(NamedTuple):
    """A file in /dev/shm."""

    name: str
    inode: int


def segments_of(pids: Iterable[int], prefix: str) -> set[Segment]:
    """Return the files that processes have mapped, those whose name begins so."""
    found: set[Segment] = set()
    wanted = f"{FOLDER}/{prefix}"
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
                fields = line.split(maxsplit=5)  # Source: proc_pid_maps(5)
                if len(fields) == 6 and fields[5].startswith(wanted):
                    found.add(Segment(fields[5].removeprefix(f"{FOLDER}/").removesuffix(" (deleted)"), int(fields[4])))
    return found


def note(folder: Path, segments: Collection[Segment]) -> None:
    """Write down what is to be swept, in a pool's folder, whole or not at all.

    Raises:
        OSError: It could not be written.
    """
    lines = "".join(f"{segment.inode} {segment.name}\n" for segment in sorted(segments))
    write_whole(folder / _NOTE, lines.encode())


def sweep(folder: Path) -> None:
    """Remove what is noted in a pool's folder and still there; nothing that maps it may live."""
    try:
        lines = (folder / _NOTE).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        inode, _, name = line.partition(" ")
        path = FOLDER / name
        with contextlib.suppress(OSError):  # it is gone already
            if path.parent == FOLDER and path.lstat().st_ino == int(inode):
                path.unlink()
