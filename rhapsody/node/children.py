"""The processes that an agent starts, and those that it adopts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Child(NamedTuple):
    """A process that was started, leader of a process group and of a session.

    Attributes:
        popen: As the standard library knows it; nobody else waits for it.
        ended: Gets its exit code, 128 + n for signal n; who awaits it must not cancel it.
    """

    popen: subprocess.Popen[bytes]
    ended: asyncio.Future[int]

    def send_signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens where that is gone."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, number)


class Nursery:
    """Starts processes, and waits for all children, those that were adopted from dead ones included.

    One at a time in a process; nobody else may wait for children meanwhile.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waited_for: dict[int, Child] = {}
        self._loop.add_signal_handler(signal.SIGCHLD, self._bury)

    def start(self, argv: Sequence[str | bytes], env: Mapping[bytes, bytes], **options: Any) -> Child:  # noqa: ANN401
        """Start a process in a session of its own.

        Args:
            argv: The program and its arguments.
            env: Its whole environment.
            options: More for `subprocess.Popen`.

        Raises:
            OSError: It cannot be started.
        """
        popen = subprocess.Popen(argv, env=env, start_new_session=True, **options)  # noqa: S603 - that is its purpose
        child = Child(popen, self._loop.create_future())
        self._waited_for[popen.pid] = child
        return child

    def close(self) -> None:
        """Leave children to others."""
        self._loop.remove_signal_handler(signal.SIGCHLD)

    def signal_all(self, number: int) -> None:
        """Send a signal to the process groups of all that were started and have not ended."""
        for child in self._waited_for.values():
            child.send_signal(number)

    async def all_ended(self) -> None:
        """Return when all that were started have ended."""
        while self._waited_for:
            await asyncio.wait({child.ended for child in self._waited_for.values()})

    def _bury(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._waited_for.pop(pid, None)
            if child is not None:
                code = os.waitstatus_to_exitcode(status)
                child.popen.returncode = code  # so that Popen does not look for it
                if not child.ended.done():
                    child.ended.set_result(128 - code if code < 0 else code)
