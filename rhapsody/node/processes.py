"""Keeping hold of processes: who adopts orphans, who dies with whom, and ending all of them.

Linux only: orphans are adopted through the child-subreaper attribute.
Source: prctl(2), PR_SET_CHILD_SUBREAPER and PR_SET_PDEATHSIG.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def children() -> list[int]:
    """Return the process ids of this process's children, adopted and ended ones included."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # the usual answer, and a quick one
        return []
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):  # noqa: PTH208 - on the way of every executable
        with contextlib.suppress(OSError):  # a thread that has just ended
            found.extend(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    return found


def descendants(ancestor: int) -> set[int]:
    """Return the processes below one, itself included."""
    found = {ancestor}
    new = [ancestor]
    while new:
        pid = new.pop()
        with contextlib.suppress(OSError):  # it has ended, or one of its threads
            for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208
                below = set(map(int, Path(f"/proc/{pid}/task/{thread}/children").read_text().split()))
                new.extend(below - found)
                found |= below
    return found


def end_children(keep: Collection[int] = (), *, limit_s: float = 5.0) -> None:
    """Kill and reap all children but those to keep, and the orphans that come to us meanwhile.

    Args:
        keep: Process ids to leave alone.
        limit_s: Give up on processes that the kernel cannot end (uninterruptible input/output) after so long.
    """
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        doomed = [pid for pid in children() if pid not in keep]
        if not doomed:
            return
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in doomed:
            _reap(pid, deadline)


def end_marked(variable: str, value: str) -> int:
    """Kill every process that was started with a variable of this value, whoever its parent is by now.

    Returns:
        How many there were.
    """
    mark = f"{variable}={value}".encode()
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                found += 1
    return found


def started_at(pid: int) -> int | None:
    """Return when a process was started, in clock ticks since boot; None when it has ended.

    Source: proc_pid_stat(5), fields 3 and 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def boot_id() -> str:
    """Return what tells the boots of this machine apart, and its kernel from others."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _reap(pid: int, deadline: float) -> None:
    pause_s = 0.0005
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0] == pid:
                return
        except ChildProcessError:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)


def is_stopped(pid: int) -> bool:
    """Return whether every thread of a process is halted by SIGSTOP, or gone."""
    try:
        states = [task.read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return True
    return all(state in "TtZXx" for state in states)


def describe_exit(code: int) -> str:
    """Return how a process ended, for people, from a code as `subprocess` gives it."""
    if code >= 0:
        return f"exited with code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by signal {-code} ({signal.Signals(-code).name})"
    return f"was ended by signal {-code}"
