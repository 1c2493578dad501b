"""The parent of a node's workers: a keeper that starts them by fork.

It is small and single-threaded, so a fork of it is safe and takes milliseconds. Workers die with it.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from rhapsody.backends import worker
from rhapsody.backends.keeper import Duty, Keeper, take_up
from rhapsody.node.processes import children, die_with_parent, end_children

if TYPE_CHECKING:
    import socket

    from rhapsody.backends.notebook import Notes


class Guardian(Keeper):
    """Forks workers; see `Keeper`."""

    def __init__(self, session: socket.socket, duty: Duty) -> None:
        super().__init__(session, duty)
        self._workers: dict[int, int] = {}
        """Worker id of each living worker's process id."""

    def _start(self, worker_id: int) -> None:
        guardian = os.getpid()
        notes = self._take_notes(worker_id)
        pid = os.fork()
        if pid == 0:
            self._become_worker(worker_id, guardian, notes)
        self._workers[pid] = worker_id

    def _become_worker(self, worker_id: int, guardian: int, notes: Notes | None) -> NoReturn:
        try:
            die_with_parent()
            if os.getppid() != guardian:
                os._exit(1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            self._session.close()
            self._selector.close()
            for others in (*self._notes.values(), *self._buried):
                if others is not None and others is not notes:
                    others.close()
            os.setsid()
            worker.run(self._duty.address, self._duty.token, worker_id, None if notes is None else notes.descriptors)
        except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing may return into the guardian
            sys.stderr = sys.__stderr__  # the worker's own keeps what tasks print; this goes to the log
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)

    def _kill(self, worker_id: int) -> None:
        for pid in [pid for pid, known in self._workers.items() if known == worker_id]:
            os.kill(pid, signal.SIGKILL)

    def _bury(self) -> None:
        for pid in list(self._workers):
            try:
                done, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                done, status = pid, 0
            if done == pid:
                worker_id = self._workers.pop(pid)
                end_children(keep=self._workers.keys())
                self._has_ended(worker_id, os.waitstatus_to_exitcode(status))
        if len(children()) > len(self._workers):
            end_children(keep=self._workers.keys())

    def _pids(self) -> list[int]:
        return list(self._workers)

    def _end_runtime(self) -> None:
        end_children()


def main(descriptor: str) -> None:
    """Run a guardian on an inherited socket.

    Args:
        descriptor: Of the socket pair's end; its first message is the `Duty`.
    """
    session, duty, _ = take_up(int(descriptor))
    Guardian(session, duty).serve()
