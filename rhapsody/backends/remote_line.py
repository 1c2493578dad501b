"""The line to the executor of another node: the streams of its `ssh`, and how far its clock is off."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from rhapsody.backends.outflow import Outflow
from rhapsody.backends.relay import Inbox
from rhapsody.node.processes import describe_exit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

_READ_BYTES = 1 << 20
_END_LIMIT_S = 1.0


class Line:
    """Sends bytes to an executor and hands on what it says.

    Args:
        process: Its `ssh`, with pipes.
        take: Called with each message, its parts as arguments.
        on_lost: Called with the reason when the line breaks off.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        take: Callable[..., None],
        on_lost: Callable[[str], None],
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the process has no pipes")
        self._process, self._take, self._on_lost = process, take, on_lost
        self._in, self._out = process.stdin, process.stdout
        self._inbox = Inbox()
        self._loop = asyncio.get_running_loop()
        self._is_closed = False
        for stream in (self._in, self._out):
            os.set_blocking(stream.fileno(), False)
        self._outflow = Outflow(self._in.fileno(), lambda: None)  # when it is ending, reading says how
        self._loop.add_reader(self._out, self._read)

    def send(self, data: bytes) -> None:
        """Send bytes, now or as soon as they are taken."""
        self._outflow.send(data)

    def close(self) -> None:
        """Let go of it: the executor ends."""
        self._is_closed = True
        self._loop.remove_reader(self._out)
        self._outflow.close()
        self._in.close()
        self._out.close()

    def _read(self) -> None:
        try:
            data = os.read(self._out.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._out)
            self._loop.create_task(self._break_off())
            return
        for message in self._inbox.add(data):
            self._take(*message)
            if self._is_closed:
                return

    async def _break_off(self) -> None:
        """Say that it is over, and how its `ssh` ended if that is known soon."""
        deadline = time.monotonic() + _END_LIMIT_S
        while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - rare, and soon over
            await asyncio.sleep(0.01)
        code = self._process.returncode
        self._on_lost("the line to its executor broke off" if code is None else f"its executor {describe_exit(code)}")


class Clock:
    """How far the clock of another machine is off, by question and answer.

    Attributes:
        offset_ns: Added to its `time.monotonic_ns()` it gives this machine's.
        error_ns: That is at most so wrong.
    """

    def __init__(self) -> None:
        self.offset_ns = 0
        self.error_ns = 1 << 62

    def learn(self, asked_ns: int, its_ns: int) -> None:
        """Take an answer.

        Args:
            asked_ns: This machine's clock when it was asked.
            its_ns: The other one's when it answered.
        """
        now_ns = time.monotonic_ns()
        error_ns = (now_ns - asked_ns) // 2
        if error_ns <= self.error_ns:
            self.error_ns = error_ns
            self.offset_ns = asked_ns + error_ns - its_ns

    def forget(self) -> None:
        """Let the next answer count, however long it takes: clocks drift."""
        self.error_ns = 1 << 62
