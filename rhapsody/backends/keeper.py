"""The process that keeps a node's workers for a session: what is the same however workers are started.

A process of its own, small and single-threaded, under which everything that runs on the node has its place: it adopts
what dead workers leave behind. Session and keeper talk over a socket pair that keeps message boundaries; its end is the
sign to end everything. When that comes unannounced, the session has died, and what the workers have noted (see
`notebook`) is written down for the one that goes on.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends.notebook import Notes, write_left
from rhapsody.node.processes import adopt_orphans, children, end_children

if TYPE_CHECKING:
    from collections.abc import Callable

STOP_GRACE_S = 2.0
"""Seconds that idle workers get to run their exit handlers."""


class Duty(NamedTuple):
    """What a keeper is told once at its start.

    Attributes:
        address: Path of the pool's Unix socket.
        token: Shown by workers when they connect.
        folder: Private folder of the pool, removed at the end.
        log: File that collects what workers print outside of tasks.
        sys_path: Import path of the session.
        left: File to write what the workers have noted to, should the session die; empty for none.
    """

    address: str
    token: bytes
    folder: str
    log: str
    sys_path: tuple[str, ...]
    left: str = ""


class Keeper(ABC):
    """Starts and ends workers as the session says, buries them, and keeps what they note.

    Args:
        session: The socket pair's end.
        duty: What the session's first message said.
    """

    def __init__(self, session: socket.socket, duty: Duty) -> None:
        self._session = session
        self._duty = duty
        self._selector = selectors.DefaultSelector()
        self._notes: dict[int, Notes | None] = {}
        """What each living worker notes, by worker id."""
        self._buried: deque[Notes | None] = deque()
        """What dead workers have noted, in the order of their ends, until the session has it all in its journal."""
        self._settled = 0
        """How many of them were dropped."""
        self._is_over = False
        self._was_told_to_end = False

    def serve(self) -> None:
        """Do as told until the session is gone, then end everything."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            gone = os.pidfd_open(os.getppid())
            self._watch(wake_read, lambda: self._child_ended(wake_read))
            self._watch(self._session.fileno(), self._obey)
            self._watch(gone, self._obey_to_the_last)
            while not self._is_over:
                self._step()
        finally:
            self._end_all()

    def _watch(self, descriptor: int, callback: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def _step(self, wait_s: float | None = None) -> None:
        for key, _ in self._selector.select(wait_s):
            key.data()

    def _child_ended(self, wake: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        self._bury()

    def _obey(self, flags: int = 0) -> None:
        try:
            message = self._session.recv(4096, flags)
        except ConnectionError:
            message = b""
        if not message:
            self._is_over = True
            return
        order, *rest = marshal.loads(message)  # noqa: S302 - the socket pair was inherited, nobody else has it
        if order == "start":
            worker_id, settled = rest
            self._forget(settled)
            self._start(worker_id)
        elif order == "kill":
            self._kill(rest[0])
        elif order == "end":
            self._is_over = self._was_told_to_end = True

    def _obey_to_the_last(self) -> None:
        """Read what the dead session had sent; where it had forked, its child keeps the socket pair open."""
        with contextlib.suppress(BlockingIOError):
            while not self._is_over:
                self._obey(socket.MSG_DONTWAIT)
        self._is_over = True

    def _forget(self, settled: int) -> None:
        """Drop the notes of dead workers that the session has in its journal: those of the first so many."""
        while self._settled < settled:
            self._settled += 1
            if (notes := self._buried.popleft()) is not None:
                notes.close()

    def _take_notes(self, worker_id: int) -> Notes | None:
        """Make what a new worker notes its results in."""
        try:
            notes = Notes()
        except OSError as exc:  # the worker can do without
            notes = None
            say(f"worker {worker_id} has nothing to note its results in: {exc}")
        self._notes[worker_id] = notes
        return notes

    def _has_ended(self, worker_id: int, exit_code: int) -> None:
        """Tell the end of a worker, of which nothing is left."""
        self._buried.append(self._notes.pop(worker_id))
        self._tell("exit", worker_id, exit_code)

    def _tell(self, *message: str | float) -> None:
        with contextlib.suppress(OSError):  # the session is gone: the next receive says so
            self._session.send(marshal.dumps(message))

    @abstractmethod
    def _start(self, worker_id: int) -> None:
        """Start a worker."""

    @abstractmethod
    def _kill(self, worker_id: int) -> None:
        """End a worker at once."""

    @abstractmethod
    def _bury(self) -> None:
        """Bury children that have ended, adopted ones too, and tell the ends of workers."""

    @abstractmethod
    def _pids(self) -> list[int]:
        """Return the process ids of living workers, of those that are known."""

    @abstractmethod
    def _end_runtime(self) -> None:
        """End whatever is left, once workers had their time to end by themselves."""

    def _end_all(self) -> None:
        for notes in self._notes.values():
            if notes is not None:
                notes.say_pool_is_gone()
        for pid in self._pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # the session may have halted it
        self._wait_for_workers(time.monotonic() + STOP_GRACE_S)
        self._end_runtime()
        end_children()
        if self._duty.left and not self._was_told_to_end:
            self._write_left(Path(self._duty.left))
        shutil.rmtree(self._duty.folder, ignore_errors=True)

    def _wait_for_workers(self, deadline: float) -> None:
        while self._pids() and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.001)

    def _write_left(self, path: Path) -> None:
        kept = [*self._buried, *self._notes.values()]
        complete = None not in kept and not children()
        try:
            write_left(path, [notes for notes in kept if notes is not None], complete=complete)
        except OSError as exc:
            say(f"the session died, and what its workers had finished could not be written to {path}: {exc}")


def say(text: str) -> None:
    """Write a line to the log."""
    sys.stderr.write(f"keeper {os.getpid()}: {text}\n")
    sys.stderr.flush()


def ignore_interrupts() -> None:
    """Leave Ctrl-C and the like to the session; SIGUSR1 is the batch system's warning to all."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def take_up(descriptor: int) -> tuple[socket.socket, Duty, bytes]:
    """Become a keeper on an inherited socket.

    Args:
        descriptor: Of the socket pair's end.

    Returns:
        The socket, the duty, and what else the first message said, marshalled.
    """
    os.setsid()
    ignore_interrupts()
    adopt_orphans()
    session = socket.socket(fileno=descriptor)
    session.set_inheritable(False)
    duty, further = marshal.loads(session.recv(1 << 20))  # noqa: S302 - inherited
    duty = Duty(*duty)
    sys.path[:] = duty.sys_path
    log = os.open(duty.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    return session, duty, further
