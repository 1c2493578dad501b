"""The parent of a node's workers: starts them by fork, buries them, and ends all of them when its session is gone.

A process of its own, small and single-threaded: a fork of it is safe and takes milliseconds, and it adopts what dead
workers leave behind. Session and guardian talk over a socket pair that keeps message boundaries; its end is the sign to
end everything. When that comes unannounced, the session has died, and what the workers have noted (see `notebook`) is
written down for the one that goes on.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import shutil
import signal
import socket
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rhapsody.backends import worker
from rhapsody.backends.notebook import Notes, write_left
from rhapsody.node.processes import adopt_orphans, children, die_with_parent, end_children

STOP_GRACE_S = 2.0
"""Seconds that idle workers get to run their exit handlers."""


class Duty(NamedTuple):
    """What a guardian is told once at its start.

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


class Guardian:
    """Starts and ends workers as the session says."""

    def __init__(self, session: socket.socket, duty: Duty) -> None:
        self._session = session
        self._duty = duty
        self._workers: dict[int, int] = {}
        """Worker id of each living worker's process id."""
        self._notes: dict[int, Notes | None] = {}
        """What it notes, by the same."""
        self._buried: deque[Notes | None] = deque()
        """What dead workers have noted, in the order of their ends, until the session has it all in its journal."""
        self._settled = 0
        """How many of them were dropped."""
        self._was_told_to_end = False

    def serve(self) -> None:
        """Do as told until the session is gone, then end everything."""
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # Where the session has forked, its child keeps the socket pair open.
        gone = os.pidfd_open(os.getppid())
        watched: list[Any] = [self._session, wake_read, gone]
        try:
            while True:
                ready, _, _ = select.select(watched, [], [])
                if wake_read in ready:
                    with contextlib.suppress(BlockingIOError):
                        os.read(wake_read, 4096)
                    self._bury()
                if self._session in ready:
                    if not self._obey():
                        return
                elif gone in ready:
                    return
        finally:
            self._end_all()

    def _obey(self) -> bool:
        try:
            message = self._session.recv(4096)
        except ConnectionError:
            return False
        if not message:
            return False
        order, *rest = marshal.loads(message)  # noqa: S302 - the socket pair was inherited, nobody else has it
        if order == "start":
            worker_id, settled = rest
            self._forget(settled)
            self._start(worker_id)
        elif order == "kill":
            for pid in [pid for pid, known in self._workers.items() if known == rest[0]]:
                os.kill(pid, signal.SIGKILL)
        elif order == "end":
            self._was_told_to_end = True
        return not self._was_told_to_end

    def _forget(self, settled: int) -> None:
        """Drop the notes of dead workers that the session has in its journal: those of the first so many."""
        while self._settled < settled:
            self._settled += 1
            if (notes := self._buried.popleft()) is not None:
                notes.close()

    def _start(self, worker_id: int) -> None:
        guardian = os.getpid()
        try:
            notes = Notes()
        except OSError as exc:  # the worker can do without
            notes = None
            _say(f"worker {worker_id} has nothing to note its results in: {exc}")
        pid = os.fork()
        if pid == 0:
            self._become_worker(worker_id, guardian, notes)
        self._workers[pid] = worker_id
        self._notes[pid] = notes

    def _become_worker(self, worker_id: int, guardian: int, notes: Notes | None) -> NoReturn:
        try:
            die_with_parent()
            if os.getppid() != guardian:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._session.close()
            for others in (*self._notes.values(), *self._buried):
                if others is not None:
                    others.close()
            os.setsid()
            worker.run(self._duty.address, self._duty.token, worker_id, None if notes is None else notes.descriptors)
        except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing may return into the guardian
            sys.stderr = sys.__stderr__  # the worker's own keeps what tasks print; this goes to the log
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)

    def _bury(self) -> None:
        for pid in list(self._workers):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 0
            if done == pid:
                worker_id = self._workers.pop(pid)
                self._buried.append(self._notes.pop(pid))
                end_children(keep=self._workers.keys())
                self._tell(worker_id, os.waitstatus_to_exitcode(status))
        if len(children()) > len(self._workers):
            end_children(keep=self._workers.keys())

    def _tell(self, worker_id: int, exit_code: int) -> None:
        with contextlib.suppress(OSError):  # the session is gone: the next receive says so
            self._session.send(marshal.dumps(("exit", worker_id, exit_code)))

    def _end_all(self) -> None:
        for pid, notes in self._notes.items():
            if notes is not None:
                notes.say_pool_is_gone()
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)  # the session may have halted it
        deadline = time.monotonic() + STOP_GRACE_S
        while self._workers and time.monotonic() < deadline:
            self._bury()
            time.sleep(0.001)
        end_children()
        if self._duty.left and not self._was_told_to_end:
            self._write_left(Path(self._duty.left))
        shutil.rmtree(self._duty.folder, ignore_errors=True)

    def _write_left(self, path: Path) -> None:
        kept = [*self._buried, *self._notes.values()]
        complete = None not in kept and not children()
        try:
            write_left(path, [notes for notes in kept if notes is not None], complete=complete)
        except OSError as exc:
            _say(f"the session died, and what its workers had finished could not be written to {path}: {exc}")


def _say(text: str) -> None:
    """Write a line to the log."""
    sys.stderr.write(f"guardian {os.getpid()}: {text}\n")
    sys.stderr.flush()


def main(descriptor: int) -> None:
    """Run a guardian on an inherited socket.

    Args:
        descriptor: Of the socket pair's end; its first message is the `Duty`.
    """
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # SIGUSR1 is the batch system's warning to all; workers ignore it, too
    adopt_orphans()
    session = socket.socket(fileno=descriptor)
    duty = Duty(*marshal.loads(session.recv(1 << 20)))  # noqa: S302 - inherited
    sys.path[:] = duty.sys_path
    log = os.open(duty.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Guardian(session, duty).serve()
