"""One address for the replicas of a service that speaks whatever it likes over TCP.

Each connection goes to the ready replica that has the fewest, of several to the one whose turn is longest ago, and
stays there. What is sent is passed on as it is.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from typing_extensions import override

from rhapsody.errors import SpecError
from rhapsody.services.ground import Outlet
from rhapsody.services.probes import authority

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.services.states import Address

_PART_BYTES = 1 << 16
_ENDED_BY_PEER = (ConnectionError, OSError)


class Front(Outlet):
    """Listens for the clients of one service.

    Args:
        host: Address to listen on.
        scheme: Of the URL.
        path: Of the URL, behind the port.
        wait_s: Longest that a connection waits for a replica to be ready.
    """

    def __init__(self, host: str, scheme: str = "http", path: str = "", wait_s: float = 30.0) -> None:
        self._host, self._scheme, self._path, self._wait_s = host, scheme, path, wait_s
        self._server: asyncio.Server | None = None
        self._port = 0
        self._replicas: dict[str, Address] = {}
        self._open: dict[str, set[asyncio.StreamWriter]] = {}
        self._last: dict[str, int] = {}
        """By replica, which turn was its last."""
        self._turn = 0
        self._news = asyncio.Event()
        self._emptied = asyncio.Event()

    @override
    async def open(self) -> None:
        try:
            self._server = await asyncio.start_server(self._serve, self._host, 0)
        except OSError as exc:
            raise SpecError(f"cannot listen on {self._host} for the clients of a service: {exc.strerror}") from exc
        self._port = self._server.sockets[0].getsockname()[1]

    @property
    @override
    def url(self) -> str:
        return f"{self._scheme}://{authority(self._host, self._port)}{self._path}"

    @property
    @override
    def port(self) -> int:
        return self._port

    @property
    @override
    def variables(self) -> dict[str, str]:
        return {}

    @property
    @override
    def key_file(self) -> Path | None:
        return None

    @override
    def add(self, address: Address) -> None:
        self._replicas[address.uid] = address
        self._open.setdefault(address.uid, set())
        self._last[address.uid] = 0
        self._news.set()

    @override
    async def drain(self, uid: str, within_s: float) -> None:
        self._replicas.pop(uid, None)
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self._open.get(uid):
                    self._emptied.clear()
                    await self._emptied.wait()

    @override
    def remove(self, uid: str) -> None:
        self._replicas.pop(uid, None)
        self._last.pop(uid, None)
        for writer in self._open.pop(uid, ()):
            writer.close()

    @override
    async def aclose(self) -> None:
        if self._server is not None:
            self._server.close()
        for uid in list(self._open):
            self.remove(uid)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client."""
        try:
            found = await self._connect()
            if found is not None:
                await self._pass_on(reader, writer, *found)
        finally:
            writer.close()

    async def _connect(self) -> tuple[str, asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Return a connection to a replica; None if there is none in time."""
        refused: set[str] = set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._wait_s):
                while True:
                    free = [uid for uid in self._replicas if uid not in refused]
                    if not free:
                        self._news.clear()
                        await self._news.wait()
                        refused.clear()
                        continue
                    uid = min(free, key=lambda each: (len(self._open[each]), self._last[each]))
                    self._turn += 1
                    self._last[uid] = self._turn
                    try:
                        return uid, *await asyncio.open_connection(*self._replicas[uid][2:4])
                    except OSError:
                        refused.add(uid)  # it has just died: the supervisor will tell
        return None

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        uid: str,
        replica_reader: asyncio.StreamReader,
        replica_writer: asyncio.StreamWriter,
    ) -> None:
        held = self._open.get(uid)
        if held is not None:
            held |= {writer, replica_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, replica_writer))
                group.create_task(_pump(replica_reader, writer))
        finally:
            replica_writer.close()
            if held is not None:
                held -= {writer, replica_writer}
            self._emptied.set()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends; that one side says no more does not keep the other from answering."""
    try:
        while part := await source.read(_PART_BYTES):
            sink.write(part)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()
    except _ENDED_BY_PEER:
        sink.close()
