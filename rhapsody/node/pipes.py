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
        self._watching: asyncio.AbstractEventLoop | None = None
        """The loop that looks whether there is something to read."""
        self._reader: asyncio.Future[None] | None = None
        self._little_comes = False
        """Whether little comes, so that the next read would most likely find nothing."""
        os.set_blocking(descriptor, False)

    def close(self) -> None:
        """Close the end; may be called again."""
        if not self._closed:
            self._closed = True
            self._stop_watching()
            os.close(self._descriptor)

    async def read_some(self, most: int) -> bytes:
        """Return what is there to read, once there is something; empty at the end."""
        if self._little_comes:
            await self._readable()
        while True:
            try:
                data = os.read(self._descriptor, most)
            except BlockingIOError:
                await self._readable()
            else:
                self._little_comes = len(data) < most // 4
                return data

    async def write_some(self, data: bytes | bytearray) -> int:
        """Write as much as there is room for, once there is some; return how many bytes.

        Raises:
            BrokenPipeError: Nobody reads it any more.
        """
        while True:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:
                await self._writable()

    def write_now(self, data: bytes) -> int:
        """Write as much as there is room for now; return how many bytes, 0 where it is closed or nobody reads it."""
        if self._closed:
            return 0
        try:
            return os.write(self._descriptor, data)
        except (BlockingIOError, BrokenPipeError):
            return 0

    async def _readable(self) -> None:
        """Wait until there is something to read; the loop goes on looking, which is cheaper than to ask it anew."""
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        if self._watching is None:
            self._watching = loop
            loop.add_reader(self._descriptor, self._wake_reader)
        try:
            await self._reader
        finally:
            self._reader = None

    def _wake_reader(self) -> None:
        if self._reader is None:
            self._stop_watching()
        elif not self._reader.done():
            self._reader.set_result(None)

    def _stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.remove_reader(self._descriptor)
            self._watching = None

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        loop.add_writer(self._descriptor, _settle, ready)
        try:
            await ready
        finally:
            loop.remove_writer(self._descriptor)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
