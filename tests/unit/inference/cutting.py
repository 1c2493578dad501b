"""A way to a server on which connections are cut, by chance, after any byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import random

LATEST_CUT = 20_000
"""Bytes in one direction: most connections live for a few requests."""


class CuttingProxy:
    """Passes bytes on between clients and one server.

    Attributes:
        port: Where it listens.
        cuts: How many connections it has cut.
    """

    def __init__(self, server_port: int, chance: random.Random) -> None:
        self.port = 0
        self.cuts = 0
        self._server_port = server_port
        self._chance = chance
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        there, back = self._bytes_until_cut(), self._bytes_until_cut()
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers.add(up_writer)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass(reader, up_writer, writer, there))
                    group.create_task(self._pass(up_reader, writer, writer, back))
            finally:
                self._writers.discard(up_writer)
                up_writer.transport.abort()
        except* (OSError, _Over):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    def _bytes_until_cut(self) -> int:
        """Return any number, small ones often: they fall into the first head."""
        return int(LATEST_CUT * self._chance.random() ** 3)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: asyncio.StreamWriter, left: int
    ) -> None:
        """Pass bytes on in one direction, at most so many."""
        while data := await reader.read(4096):
            if len(data) >= left:
                writer.write(data[:left])
                with suppress(OSError):
                    await writer.drain()
                self._cut(client)
                raise _Over
            left -= len(data)
            writer.write(data)
            await writer.drain()
        raise _Over

    def _cut(self, client: asyncio.StreamWriter) -> None:
        """End a client's connection: by a reset, or as if all were well."""
        self.cuts += 1
        if self._chance.random() < 0.5:
            raw: socket.socket = client.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.transport.abort()
        else:
            client.close()


class _Over(Exception):  # noqa: N818 - no error: ends both directions
    pass
