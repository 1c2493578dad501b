"""What the tests' tasks do, importable by workers without pytest: leave traces, meet, hang, and die in many ways."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE_S = 30.0
"""Nobody waits longer for another task: a test that went wrong ends all the same."""


def note(ledger: Path, text: object) -> None:
    """Append a line to a file that many processes write to."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{text}\n".encode())
    finally:
        os.close(descriptor)


def lines(ledger: Path) -> list[str]:
    """Return what was noted so far."""
    return ledger.read_text().splitlines() if ledger.exists() else []


def wait_for(path: Path) -> None:
    """Return once a file exists."""
    deadline = time.monotonic() + DEADLINE_S
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.001)


def meet(folder: Path, name: str, count: int) -> None:
    """Return once so many have come to a place: they run at the same time."""
    (folder / name).touch()
    deadline = time.monotonic() + DEADLINE_S
    while len(list(folder.iterdir())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {count} came to {folder}")
        time.sleep(0.001)


def spin(seconds: float) -> None:
    """Keep a core busy."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def hang(pids: Path) -> NoReturn:
    """Note this process and a child that it leaves behind, and never end."""
    child = subprocess.Popen(["sleep", "600"])  # noqa: S607 - any sleep will do
    pids.with_suffix(".part").write_text(f"{os.getpid()}\n{child.pid}\n")
    pids.with_suffix(".part").rename(pids)
    while True:
        signal.pause()


def leave_fork(pids: Path) -> None:
    """Return, and leave a forked child behind that never ends."""
    child = os.fork()
    if child == 0:
        while True:
            signal.pause()
    note(pids, child)


def noted_pids(pids: Path) -> list[int]:
    """Return the process ids in a file."""
    return [int(line) for line in lines(pids)]


def state_of(pid: int) -> str:
    """Return the state of a process as one letter; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    return state_of(pid) not in ("", "Z", "X")


def stop_here(ledger: Path, number: int, stopper: int) -> None:
    """Note a task; the stopper's first attempt stays at it."""
    attempt = os.environ["RHAPSODY_ATTEMPT"]
    note(ledger, f"{number} {attempt}")
    if number == stopper and attempt == "1":
        note(ledger.with_name("pid"), os.getpid())
        spin(DEADLINE_S)


def log_start_and_end(ledger: Path, number: int) -> None:
    """Note when a task begins and when it is over."""
    note(ledger, f"start {number} {os.getpid()}")
    spin(0.001)
    note(ledger, f"end {number} {os.getpid()}")


def rank() -> int:
    """Return the rank that this process is."""
    return int(os.environ["RHAPSODY_RANK"])


def note_behind(gate: Path | None, ledger: Path, number: int) -> None:
    """Note a number, once there is a gate where one was given."""
    if gate is not None:
        wait_for(gate)
    note(ledger, number)


# Ways to die


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def segfault() -> None:
    ctypes.string_at(0)


def exit_hard() -> None:
    os._exit(3)


def exit_softly() -> None:
    sys.exit(4)


def abort() -> None:
    os.abort()


def recurse() -> None:
    recurse()


def use_all_memory() -> None:
    bytearray(1 << 62)


class Escape(BaseException):
    """Not an Exception."""


def escape() -> None:
    raise Escape("past every except Exception")


def interrupt() -> None:
    raise KeyboardInterrupt


def say_too_much() -> None:
    raise ValueError("x" * (50 << 20))


def return_lock() -> object:
    return threading.Lock()


def return_generator() -> Iterator[int]:
    return (number for number in range(3))


def return_too_much() -> bytes:
    return bytes(500 << 20)


class HoldsLock(Exception):  # noqa: N818 - a name for a test
    """Cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


def raise_holding_lock() -> None:
    raise HoldsLock("it is locked")


class NeedsTwo(Exception):  # noqa: N818 - a name for a test
    """Can be pickled, but not unpickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def raise_needing_two() -> None:
    raise NeedsTwo("this", "that")


class Homesick:
    """Raises when it is unpickled anywhere but where it was made."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __getstate__(self) -> tuple[type[BaseException], int]:
        return self.error, os.getpid()

    def __setstate__(self, state: tuple[type[BaseException], int]) -> None:
        self.error, home = state
        if os.getpid() != home:
            raise self.error("far from home")


def return_homesick() -> Homesick:
    return Homesick(OSError)


def return_very_homesick() -> Homesick:
    return Homesick(SystemExit)


class Unsendable:
    """Raises when it is pickled."""

    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __reduce__(self) -> Any:  # noqa: ANN401 - it never returns
        raise self.error("stays where it is")


class OnceOnly:
    """Can be pickled where it was made, and nowhere else."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __reduce__(self) -> Any:  # noqa: ANN401 - what pickle wants
        if os.getpid() != self.home:
            raise TypeError("it was sent once already")
        return _once_only, (self.home,)


def _once_only(home: int) -> OnceOnly:
    made = OnceOnly()
    made.home = home
    return made
