"""The processes of one measured run, waited for and ended, and its shared memory freed."""

from __future__ import annotations

import os
import select
import signal
import subprocess  # noqa: TC003 - what a run is, at run time too
import time
from pathlib import Path

from rhapsody.backends import shared_memory
from rhapsody.experiments.peer_scripts import members

GRACE_S = 10.0
"""How long processes have to end by themselves, once their leader has ended or was asked to."""
SHUTDOWN_S = 30.0
"""How long a script has to shut its system down once its report is written."""
_POLL_S = 0.05
_LOOK_S = 0.25
_LOOKS = 3
"""So often is it looked for who made the files that are new in /dev/shm: a file is there before it is mapped."""


class RunningScript:
    """A script that runs, and all that it starts.

    Args:
        process: Its first process, which leads a session.
        mark: Value of `members.MARK_VARIABLE` that the script was started with.

    Attributes:
        ended_itself: Whether its first process has ended before anybody asked it to.
    """

    def __init__(self, process: subprocess.Popen[bytes], mark: str) -> None:
        self._process = process
        self._mark = mark
        self.ended_itself = False
        self._strangers = self._listing = _names_in_shared_memory()
        self._looks = 0
        self._segments: set[shared_memory.Segment] = set()

    def wait(self, report: Path, within_s: float) -> bool:
        """Return whether the script ended in time, or its report is there and only the end of its system hangs.

        Args:
            report: File that the script writes last.
            within_s: Seconds that it has.
        """
        give_up = time.monotonic() + within_s
        reported = False
        while not self._has_ended(within_s=max(0.0, min(_LOOK_S, give_up - time.monotonic()))):
            self._look()
            if not reported and report.exists():
                reported = True
                give_up = time.monotonic() + SHUTDOWN_S
            if time.monotonic() >= give_up:
                return reported
        self.ended_itself = True
        return True

    def end(self, scratch: Path) -> list[str]:
        """End what is left: the leader by request first, all when it does not end by itself; free shared memory.

        Args:
            scratch: Folder for a note of what is to be freed.

        Returns:
            The processes and files that outlived the time of grace.
        """
        self._looks = _LOOKS
        self._look()
        if not self._has_ended(within_s=0):
            self._process.send_signal(signal.SIGTERM)
        give_up = time.monotonic() + GRACE_S
        while time.monotonic() < give_up and self._living():
            time.sleep(_POLL_S)
        left: dict[int, str] = {}
        while there := self._living():
            for pid in there:
                left.setdefault(pid, _describe(pid))
                _kill(pid)
            time.sleep(_POLL_S)
        self._process.wait()
        files = [segment for segment in sorted(self._segments) if _is_there(segment)]
        if files:
            shared_memory.note(scratch, files)
            shared_memory.sweep(scratch)
        return [*left.values(), *(f"file {shared_memory.FOLDER / segment.name}" for segment in files)]

    def _has_ended(self, *, within_s: float) -> bool:
        """Return whether the leader ends in time, without burying it: so its number stays taken."""
        descriptor = os.pidfd_open(self._process.pid)
        try:
            return bool(select.select([descriptor], [], [], within_s)[0])
        finally:
            os.close(descriptor)

    def _living(self) -> list[int]:
        found = [member.pid for member in members.find(self._mark, self._process.pid) if member.state != "Z"]
        return found if self._has_ended(within_s=0) else [self._process.pid, *found]

    def _look(self) -> None:
        """Take note of the run's files in /dev/shm; without a new one there, that costs microseconds."""
        listing = _names_in_shared_memory()
        if listing != self._listing:
            self._listing = listing
            self._looks = _LOOKS
        if self._looks:
            self._looks -= 1
            found = shared_memory.segments_of(self._living(), "")
            self._segments |= {each for each in found if each.name not in self._strangers and "/" not in each.name}


def _names_in_shared_memory() -> frozenset[str]:
    try:
        return frozenset(os.listdir(shared_memory.FOLDER))  # noqa: PTH208 - names are all that is needed
    except OSError:  # there is none
        return frozenset()


def _is_there(segment: shared_memory.Segment) -> bool:
    try:
        return (shared_memory.FOLDER / segment.name).lstat().st_ino == segment.inode
    except OSError:  # it is gone
        return False


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it has just ended
        command = "?"
    return f"process {pid}: {command[:120]}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        return
