"""The pipes of commands, read and written on the event loop."""

from __future__ import annotations

import asyncio
import os


class Pipe:
    """One end of a pipe; the other end is a process's.

    Used by one task at a time.

    Args:
        descriptor: Of the end; it is this object's from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._closed = False
        os.set_blocking(descriptor, False)

    def close(self) -> None:
        """Close the end; may be called again."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)

    async def read_some(self, most: int) -> bytes:
        """Return what is there to read, once there is something; empty at the end."""
        while True:
            try:
                return os.read(self._descriptor, most)
            except BlockingIOError:
                await self._ready(to_write=False)

    async def write_some(self, data: bytes | bytearray) -> int:
        """Write as much as there is room for, once there is some; return how many bytes.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                await self._ready(to_write=True)

    async def _ready(self, *, to_write: bool) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        if to_write:
            loop.add_writer(self._descriptor, _settle, ready)
        else:
            loop.add_reader(self._descriptor, _settle, ready)
        try:
            await ready
        finally:
            if to_write:
                loop.remove_writer(self._descriptor)
            else:
                loop.remove_reader(self._descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
