"""What a run left behind: processes, `rhapsody*` in /dev/shm and the temporary folder, Dragon's shared memory.

`python -m tests.leftovers` prints, a line each, what is there now of this checkout's virtual
environment; two such lists, of before and after, say what was left.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

MARK_VARIABLE = "LEFTOVERS_MARK"
"""Children inherit it: so a process is known by it even when its parent has ended."""

_HELPERS = (b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Python's own: they live as long as the interpreter that started them, and end with it."""


@dataclass(frozen=True)
class Process:
    """One process, as /proc shows it."""

    pid: int
    parent: int
    ended: bool
    """Nobody waited for it yet: a zombie."""
    started: int
    """Clock ticks since boot: with the pid it names a process for good."""
    exe: str
    command: bytes
    environ: bytes

    @override
    def __str__(self) -> str:
        """Return a line for a person."""
        text = self.command.replace(b"\0", b" ").decode(errors="replace").strip()
        shown = "(ended, never waited for)" if self.ended else text[:200]
        return f"process {self.pid} (started at tick {self.started}): {shown}"


def processes() -> dict[int, Process]:
    """Return all processes that this user may look at, by pid."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in brackets may hold spaces and brackets: read from behind it.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            pid = int(folder.name)
            ended = fields[0] == "Z"  # nothing but its number is left of it
            found[pid] = Process(
                pid=pid,
                parent=int(fields[1]),
                ended=ended,
                started=int(fields[19]),
                exe="" if ended else str((folder / "exe").readlink()),
                command=b"" if ended else (folder / "cmdline").read_bytes(),
                environ=b"" if ended else (folder / "environ").read_bytes(),
            )
        except OSError:  # it has just ended, or is somebody else's, or a thread of the kernel
            continue
    return found


def left_running(mark: str, venv: Path | None = None) -> list[Process]:
    """Return the processes that descend from this one, carry the mark, or run from `venv`.

    This process, those above it and Python's own helpers are left out.
    """
    there = processes()
    above = {os.getpid()}
    pid = os.getppid()
    while pid in there and pid not in above:
        above.add(pid)
        pid = there[pid].parent
    wanted = f"{MARK_VARIABLE}={mark}".encode()

    def is_ours(process: Process) -> bool:
        if venv and (f"{venv}/" in process.exe or f"{venv}/".encode() in process.command):
            return True
        return wanted in process.environ.split(b"\0") or _descends(process, there)

    return [
        process
        for pid, process in sorted(there.items())
        if pid not in above and is_ours(process) and not any(name in process.command for name in _HELPERS)
    ]


def entries() -> set[Path]:
    """Return what is named `rhapsody*` in /dev/shm and the temporary folder, and what is Dragon's in /dev/shm."""
    shared = Path("/dev/shm")  # noqa: S108 - looked at, not used
    found = {entry for folder in (shared, Path(tempfile.gettempdir())) for entry in folder.glob("rhapsody*")}
    return found | set(shared.glob("DD*"))


def _descends(process: Process, there: dict[int, Process]) -> bool:
    """Return whether this process is an ancestor of that one."""
    seen: set[int] = set()
    parent = process.parent
    while parent in there and parent not in seen:
        if parent == os.getpid():
            return True
        seen.add(parent)
        parent = there[parent].parent
    return False


def main() -> None:
    """Print what is there of this checkout, sorted."""
    mark = os.environ.get(MARK_VARIABLE, "none")
    lines = [str(process) for process in left_running(mark, venv=Path.cwd() / ".venv")]
    lines += [str(entry) for entry in entries()]
    sys.stdout.writelines(f"{line}\n" for line in sorted(lines))


if __name__ == "__main__":
    main()
