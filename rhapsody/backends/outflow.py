"""Bytes on their way into a pipe that does not always take them: the rest waits, and nobody blocks."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Outflow:
    """Sends bytes in order, now or as soon as they are taken.

    Args:
        descriptor: Of the pipe's end; it must not block. It is left open.
        on_broken: Called when nobody will ever take them; what waits is dropped.
    """

    def __init__(self, descriptor: int, on_broken: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[memoryview] = deque()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self._waiting.append(memoryview(data))
        if len(self._waiting) == 1:
            self._send()

    def close(self) -> None:
        """Send no more."""
        self._loop.remove_writer(self._descriptor)

    def _send(self) -> None:
        while self._waiting:
            try:
                sent = os.write(self._descriptor, self._waiting[0])
            except BlockingIOError:
                self._loop.add_writer(self._descriptor, self._send)
                return
            except OSError:
                self._waiting.clear()
                self._on_broken()
                break
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
            else:
                self._waiting.popleft()
        self._loop.remove_writer(self._descriptor)
