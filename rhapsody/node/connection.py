"""One connection between an agent and somebody who may talk to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from rhapsody.node.protocol import HANDSHAKE_LIMIT_S, HEADER_BYTES, Kind, frame, parse_header
from rhapsody.node.shell import keep_alive

if TYPE_CHECKING:
    import ssl

CLOSING_LIMIT_S = 2.0
"""What was sent last gets so long to arrive."""


class ConnectionLost(ConnectionError):  # noqa: N818 - it is what happens at the end of every connection
    """The other side has closed, or is gone."""


class Connection:
    """Frames, both ways.

    Whoever sends much waits for the other side's word that it has room: so nothing waits here for the network.

    Attributes:
        peer: The other side's address.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.peer = plain_address(str(writer.get_extra_info("peername", ("unknown",))[0]))

    @classmethod
    async def open(cls, address: str, port: int, context: ssl.SSLContext) -> Self:
        """Connect to an agent.

        Raises:
            OSError: It cannot be reached, or is another one.
        """
        async with asyncio.timeout(HANDSHAKE_LIMIT_S):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=context, ssl_shutdown_timeout=CLOSING_LIMIT_S
            )
        keep_alive(writer.get_extra_info("socket"))
        return cls(reader, writer)

    async def receive(self) -> tuple[Kind, bytes]:
        """Return the next frame.

        Raises:
            ConnectionLost: There is none.
            ProtocolError: It is none of ours.
        """
        kind, length = parse_header(await self._read(HEADER_BYTES))
        return kind, await self._read(length)

    async def _read(self, count: int) -> bytes:
        try:
            return await self._reader.readexactly(count)
        except asyncio.IncompleteReadError as exc:
            raise ConnectionLost("it was closed") from exc
        except OSError as exc:
            raise ConnectionLost(exc.strerror or str(exc)) from exc

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a frame; nothing happens where the connection is lost already."""
        self.send_frames(frame(kind, payload))

    def send_frames(self, frames: bytes) -> None:
        """Send bytes that are whole frames."""
        if not self._writer.is_closing():
            self._writer.write(frames)

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._writer.transport.abort()

    async def aclose(self) -> None:
        """Close, once what was sent has left."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSING_LIMIT_S):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self.abort()


def plain_address(address: str) -> str:
    """Return an address as people write it, where a socket for both families says `::ffff:10.0.0.1`."""
    return address.removeprefix("::ffff:") if "." in address else address
