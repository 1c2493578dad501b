"""The one port of an agent: who connects must speak TLS and know the token within ten seconds."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.node.connection import CLOSING_LIMIT_S, Connection, plain_address
from rhapsody.node.protocol import HANDSHAKE_LIMIT_S, VERSION, Kind, ProtocolError
from rhapsody.node.shell import keep_alive

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable

    from rhapsody.node.credentials import Credentials

STRANGERS = 512
"""So many may be connected that have not shown the token yet; others wait in the kernel's queue."""
_BACKLOG = 4096
_TOLD_AT_MOST = 100
"""So many addresses are named in the log; who sends from more is not a mistake any more."""
_OUT_OF_DESCRIPTORS_S = 0.1


class Listener:
    """Accepts connections and hands those that know the token on.

    Args:
        port: To listen on; 0 for any.
        handle: Gets each connection with the first frame behind the greeting; the connection is closed when it returns.
        say: Tells the user.

    Attributes:
        port: On which it listens.

    Raises:
        SpecError: The port is taken.
    """

    def __init__(
        self,
        port: int,
        handle: Callable[[Connection, Kind, bytes], Awaitable[None]],
        say: Callable[[str], object],
    ) -> None:
        try:
            if socket.has_dualstack_ipv6():
                self._socket = socket.create_server(
                    ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
                )
            else:
                self._socket = socket.create_server(("", port), backlog=_BACKLOG)
        except OSError as exc:
            raise SpecError(f"cannot listen on port {port}: {exc.strerror}; choose another with --port") from exc
        self._socket.setblocking(False)  # noqa: FBT003 - its only argument
        self.port: int = self._socket.getsockname()[1]
        self._trusted: asyncio.Future[tuple[Credentials, ssl.SSLContext]] = asyncio.get_running_loop().create_future()
        self._handle = handle
        self._say = say
        self._strangers = asyncio.Semaphore(STRANGERS)
        self._told: set[str] = set()

    def trust(self, credentials: Credentials) -> None:
        """Believe those who know this token, and nobody else; `serve` waits for it."""
        if self._trusted.done():
            self._trusted = asyncio.get_running_loop().create_future()
        self._trusted.set_result((credentials, credentials.server()))

    def close(self) -> None:
        """Accept nobody any more."""
        self._socket.close()

    async def serve(self) -> None:
        """Accept until cancelled; then all connections are closed."""
        await self._trusted
        loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            while True:
                await self._strangers.acquire()
                try:
                    accepted, address = await loop.sock_accept(self._socket)
                except OSError as exc:
                    self._strangers.release()
                    self._tell("this host", f"no connection can be accepted: {exc.strerror}")
                    await asyncio.sleep(_OUT_OF_DESCRIPTORS_S)
                    continue
                group.create_task(self._welcome(accepted, plain_address(str(address[0]))))

    async def _welcome(self, accepted: socket.socket, peer: str) -> None:
        credentials, context = self._trusted.result()
        connection = None
        try:
            try:
                async with asyncio.timeout(HANDSHAKE_LIMIT_S):
                    connection = await _secure(accepted, context)
                    kind, payload = await _greet(connection, credentials)
            finally:
                self._strangers.release()
            await self._handle(connection, kind, payload)
        except TimeoutError:
            self._tell(peer, f"said nothing that is understood within {HANDSHAKE_LIMIT_S:g} s")
        except OSError as exc:  # a port scan, a token of another run, or the end of an honest connection
            self._tell(peer, str(exc))
        finally:
            if connection is None:
                accepted.close()
            else:
                await connection.aclose()

    def _tell(self, peer: str, what: str) -> None:
        """Say what somebody did, once for each address."""
        if peer not in self._told and len(self._told) < _TOLD_AT_MOST:
            self._told.add(peer)
            self._say(f"a connection from {peer} was closed: {what} (more from there are not reported)")


async def _secure(accepted: socket.socket, context: ssl.SSLContext) -> Connection:
    keep_alive(accepted)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol,
        accepted,
        ssl=context,
        ssl_handshake_timeout=HANDSHAKE_LIMIT_S,
        ssl_shutdown_timeout=CLOSING_LIMIT_S,
    )
    return Connection(reader, asyncio.StreamWriter(transport, protocol, reader, loop))


async def _greet(connection: Connection, credentials: Credentials) -> tuple[Kind, bytes]:
    """Return the first frame of somebody who knows the token.

    Raises:
        ProtocolError: It does not.
    """
    kind, payload = await connection.receive()
    version, _, token = payload.decode(errors="replace").partition(" ")
    if kind != Kind.HELLO or not credentials.accepts(token):
        connection.send(Kind.REFUSED, b"the token is wrong: this agent belongs to another run")
        raise ProtocolError("it does not know the token")
    if version != str(VERSION):
        connection.send(Kind.REFUSED, f"it speaks version {version} of the protocol, not {VERSION}".encode())
        raise ProtocolError(f"it speaks version {version} of the protocol, not {VERSION}")
    return await connection.receive()
