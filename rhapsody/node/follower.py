"""The other nodes' side: finding rank 0, beating with it, and knowing when it is gone."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec

from rhapsody.errors import BackendError, SpecError
from rhapsody.node import credentials, machine
from rhapsody.node.connection import Connection, ConnectionLost
from rhapsody.node.messages import Host, Join, Meeting, unpack_hosts
from rhapsody.node.protocol import RETURN_LIMIT_S, SILENCE_LIMIT_S, Kind, ProtocolError, hello

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from rhapsody.node.children import Nursery
    from rhapsody.node.commands import Limits
    from rhapsody.node.credentials import Credentials
    from rhapsody.node.plan import Plan

BEAT_S = 1.0
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.05, 1.0
CONNECT_LIMIT_S = 3.0


class Rendezvous(NamedTuple):
    """How rank 0 is found.

    Attributes:
        meeting: File in which it says where it is; None when its name is known.
        address: Its name, else empty.
        port: With that.
        credentials: Folder with the certificate and the token.
        private: Whether nobody else may read them.
    """

    meeting: Path | None
    address: str
    port: int
    credentials: Path
    private: bool

    @classmethod
    def of(cls, plan: Plan) -> Self:
        """Return how an agent with this plan finds it."""
        folder = plan.credentials or plan.folder / "credentials"
        own = plan.credentials is None
        if plan.hosts and plan.port:
            return cls(None, plan.hosts[0], plan.port, folder, own)
        return cls(plan.folder / "0.json", "", 0, folder, own)

    def look(self) -> tuple[Credentials, Sequence[str], int]:
        """Return what is needed to connect, as it is now.

        Raises:
            OSError: It is not there yet.
            SpecError: It cannot be used.
        """
        if self.meeting is None:
            return credentials.load(self.credentials, private=self.private), (self.address,), self.port
        os.listdir(self.meeting.parent)  # noqa: PTH208 - a client of NFS then looks for new files
        try:
            found = msgspec.json.decode(self.meeting.read_bytes(), type=Meeting)
        except msgspec.MsgspecError as exc:
            raise SpecError(f"{self.meeting} cannot be read: {exc}") from exc
        return credentials.load(self.credentials, private=self.private), found.addresses, found.port


class Follower:
    """One node's agent towards rank 0.

    Args:
        plan: What the agent is told.
        port: Where it listens.
        on_trusted: Called with the credentials of the run, before it is joined.
        on_hosts: Called with nodes of the job, new or changed, and rank 0's address as seen from here.
        say: Tells the user.
    """

    def __init__(
        self,
        plan: Plan,
        port: int,
        on_trusted: Callable[[Credentials], object],
        on_hosts: Callable[[list[Host], str], object],
        say: Callable[[str], object],
    ) -> None:
        self._plan = plan
        self._rendezvous = Rendezvous.of(plan)
        place, life = plan.place, secrets.token_hex(8)
        self._join = Join(place.rank, place.nodes, plan.job, life, plan.names, port, machine.look())
        self._on_trusted = on_trusted
        self._on_hosts = on_hosts
        self._say = say
        self._clock = asyncio.get_running_loop().time
        self._gone_at = 0.0
        """When rank 0 will be taken for lost."""
        self._joined = False
        self._connection: Connection | None = None
        self._stay_limit = asyncio.timeout(None)
        self._told_by = 0
        """The signal that told it to go; 0 if none did."""

    def helpers(self) -> list[Coroutine[None, None, None]]:
        """Return what has to go on beside."""
        return []

    async def admit(self, connection: Connection, payload: bytes) -> None:  # noqa: ARG002 - as rank 0 has it
        """Refuse another node's agent."""
        connection.send(Kind.REFUSED, b"this is not rank 0")

    async def work(self, nursery: Nursery, env: Mapping[bytes, bytes], limits: Limits) -> int:  # noqa: ARG002 - likewise
        """Follow rank 0; return the exit code: 0 when it said that the job ends."""
        try:
            async with self._stay_limit:
                await self.follow(self._plan.join_limit_s)
        except BackendError as exc:
            self._say(str(exc))
            return 1
        except TimeoutError:
            return 128 + self._told_by
        return 0

    def hear_signal(self, number: int) -> bool:
        """Tell rank 0 that this node's agent is about to end; return whether it is not to end now.

        Only SIGTERM and SIGHUP are meant for a single node; what the whole job gets, the session decides. Where a batch
        system sends SIGTERM to all nodes, that is the session's end, too, and it needs its nodes for that: so the first
        one lets some time for it.
        """
        if number not in {signal.SIGTERM, signal.SIGHUP}:
            return True
        if self._connection is None or self._told_by:
            return False
        self._told_by = number
        self._connection.send(Kind.LEAVING, f"it got {signal.Signals(number).name}".encode())
        self._stay_limit.reschedule(self._clock() + self._plan.leave_after_s)
        return True

    def dismiss(self, reason: str) -> None:
        """Nobody is to be told."""

    async def farewell(self) -> None:
        """Let rank 0 know that all has ended here."""
        if self._connection is not None:
            await self._connection.aclose()

    async def follow(self, limit_s: float) -> None:
        """Return when rank 0 says that the job ends.

        Args:
            limit_s: How long to look for rank 0.

        Raises:
            BackendError: It was not found, or is lost; the text says why.
        """
        self._gone_at = self._clock() + limit_s
        reason = ""
        pause_s = _FIRST_PAUSE_S
        while self._clock() < self._gone_at:
            try:
                self._connection = await self._connect()
                await self._stay(self._connection)
            except (OSError, SpecError) as exc:
                reason = str(exc)
            else:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LAST_PAUSE_S)
        what = "is lost" if self._joined else f"did not take this node in within {limit_s:g} s"
        raise BackendError(f"rank 0 {what}: {reason or 'no answer'}")

    async def _connect(self) -> Connection:
        """Return a connection to one that shows the run's certificate."""
        trusted, addresses, port = self._rendezvous.look()
        reason: OSError = ConnectionLost("it has no address")
        for address in addresses:
            try:
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    connection = await Connection.open(address, port, trusted.client())
            except OSError as exc:
                reason = ConnectionLost(f"{address} port {port}: {str(exc) or 'no answer'}")
                continue
            self._on_trusted(trusted)
            connection.send_frames(hello(trusted.token))
            connection.send(Kind.JOIN, msgspec.json.encode(self._join))
            return connection
        raise reason

    async def _stay(self, connection: Connection) -> None:
        """Return at the job's end.

        Raises:
            OSError: The connection broke.
        """
        broken: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                beating = group.create_task(self._beat(connection))
                await self._hear_all(connection)
                beating.cancel()
        except* OSError as errors:
            broken = errors.exceptions[0]  # raised in here, Python 3.11.2 would put it into a group once more
        if broken is not None:
            connection.abort()
            if self._joined:
                self._gone_at = min(self._gone_at, self._clock() + RETURN_LIMIT_S)
            raise broken
        # At the job's end it stays open until everything here has ended: rank 0 waits for that.

    async def _beat(self, connection: Connection) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            if self._clock() > self._gone_at:
                connection.abort()
                raise ConnectionLost(f"nothing was heard of it for {SILENCE_LIMIT_S:g} s")
            connection.send(Kind.BEAT)

    async def _hear_all(self, connection: Connection) -> None:
        while True:
            kind, payload = await connection.receive()
            if kind == Kind.REFUSED:
                raise ProtocolError(f"it refuses: {payload.decode(errors='replace')}")
            self._joined = True
            self._gone_at = self._clock() + SILENCE_LIMIT_S
            if kind == Kind.END:
                return
            if kind == Kind.HOSTS:
                self._on_hosts(unpack_hosts(payload), connection.peer)
                connection.send(Kind.READY)
            elif kind != Kind.BEAT:
                raise ProtocolError(f"a frame {kind.name}, which rank 0 should not send")
