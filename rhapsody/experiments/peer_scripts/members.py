"""Which processes belong to one measured run, and how much CPU time they used."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import NamedTuple

MARK_VARIABLE = "RHAPSODY_BENCH_RUN"
"""Carries the run's mark; children inherit it, so daemons are known by it after their parent has ended."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Process(NamedTuple):
    """One process, as /proc/PID/stat shows it.

    Attributes:
        pid: Its number.
        state: One letter; Z is one that has ended and is not yet waited for.
        parent: Number of its parent.
        group: Number of its process group.
        session: Number of its session.
        waited_for_s: CPU time of the children that it has waited for.
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    waited_for_s: float


def find(mark: str, leader: int) -> list[Process]:
    """Return the living and ended processes of a run, the leader left out.

    A process belongs to the run when it carries the mark, is in the leader's session or group, or descends from one
    that does. Neither test is enough alone: daemons leave the session, and some programs overwrite their environment.

    Args:
        mark: Value of the run's `MARK_VARIABLE`.
        leader: Process that was started first; it leads a session.
    """
    there = {process.pid: process for process in _all_processes()}
    known: dict[int, bool] = {leader: True, os.getpid(): os.getpid() == leader}

    def belongs(pid: int) -> bool:
        process = there.get(pid)
        if process is None:
            return False
        if pid not in known:
            known[pid] = False  # ends a circle, should pids be reused while /proc is read
            known[pid] = leader in (process.session, process.group) or _carries(pid, mark) or belongs(process.parent)
        return known[pid]

    return [process for process in there.values() if process.pid != leader and belongs(process.pid)]


def cpu_s_of_children(mark: str) -> float:
    """Return the CPU seconds that all processes of this run but the calling one have used so far."""
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    others = sum(_cpu_s(process.pid) + process.waited_for_s for process in find(mark, os.getpid()))
    return waited_for.ru_utime + waited_for.ru_stime + others


def _all_processes() -> list[Process]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name in brackets may hold spaces and brackets: read from behind it.
            fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        ticks = int(fields[13]) + int(fields[14])
        found.append(
            Process(int(folder.name), fields[0], int(fields[1]), int(fields[2]), int(fields[3]), ticks / _TICKS_PER_S)
        )
    return found


def _cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, which /proc gives in steps of 10 ms only."""
    try:
        return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it
    except OSError:  # it has just ended
        return 0.0


def _carries(pid: int, mark: str) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has just ended, or is somebody else's
        return False
    return f"{MARK_VARIABLE}={mark}".encode() in environ.split(b"\0")
