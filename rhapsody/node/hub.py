"""Rank 0's side of the job: which nodes are there, and which have been lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rhapsody.errors import BackendError
from rhapsody.node.connection import Connection, ConnectionLost
from rhapsody.node.messages import Host, Join, pack_hosts, parse_join
from rhapsody.node.protocol import RETURN_LIMIT_S, SILENCE_LIMIT_S, Kind, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.node.events import EventLog
    from rhapsody.node.plan import Plan

LOOK_S = 0.5
FAREWELL_LIMIT_S = 12.0
"""At the end the others get so long to end what they have started."""
_NAMED_AT_MOST = 20
_OWN = "127.0.0.1"


class Member:
    """A node's agent, as rank 0 sees it."""

    def __init__(self, join: Join, host: Host, connection: Connection) -> None:
        self.join = join
        self.host = host
        self.connection: Connection | None = connection
        self.is_ready = False
        self.is_lost = False
        self.silent_at = 0.0
        """When it will be taken for lost."""
        self.reason = ""


class Hub:
    """Takes in the agents of the other nodes, beats with them, and tells which are lost.

    Args:
        plan: What this agent is told.
        own: This node.
        events: Where it is written down.
        on_hosts: Called with all nodes once they are there, and with those that come anew.
        say: Tells the user.
    """

    def __init__(
        self,
        plan: Plan,
        own: Host,
        events: EventLog,
        on_hosts: Callable[[list[Host], str], object],
        say: Callable[[str], object],
    ) -> None:
        self._nodes = plan.place.nodes
        self._job = plan.job
        self._names = plan.hosts
        self._own = own
        self._events = events
        self._on_hosts = on_hosts
        self._say = say
        self._members: dict[int, Member] = {}
        self._changed = asyncio.Event()
        self._is_complete = False
        self._is_over = False
        self._refused: set[str] = set()
        self._lost: dict[str, str] = {}
        """Why each life was given up: none comes back, also when another has taken its rank."""
        self._clock = asyncio.get_running_loop().time

    @property
    def hosts(self) -> list[Host]:
        """Nodes that are there, this one included."""
        return [self._own, *(member.host for member in self._members.values() if not member.is_lost)]

    async def complete(self, limit_s: float) -> None:
        """Return when all nodes are there and know of each other.

        Raises:
            BackendError: Some are missing after so many seconds; the text says which.
        """
        try:
            async with asyncio.timeout(limit_s):
                await self._until(lambda: len(self.hosts) == self._nodes)
                self._is_complete = True
                self._on_hosts(self.hosts, _OWN)
                self._tell_all(Kind.HOSTS, pack_hosts(self.hosts))
                await self._until(lambda: all(member.is_ready for member in self._members.values()))
        except TimeoutError:
            there = {host.rank for host in self.hosts}
            unready = {rank for rank, member in self._members.items() if self._is_complete and not member.is_ready}
            missing = [rank for rank in range(self._nodes) if rank not in there or rank in unready]
            raise BackendError(
                f"{len(missing)} of {self._nodes} nodes did not join within {limit_s:g} s: {self._describe(missing)};"
                " look at what their agents say, and whether they can reach this node; --join-limit sets the time"
            ) from None

    def _describe(self, ranks: Sequence[int]) -> str:
        shown = [f"rank {rank} ({self._names[rank]})" if self._names else f"rank {rank}" for rank in ranks]
        more = f" and {len(shown) - _NAMED_AT_MOST} more" if len(shown) > _NAMED_AT_MOST else ""
        return ", ".join(shown[:_NAMED_AT_MOST]) + more

    async def admit(self, connection: Connection, payload: bytes) -> None:
        """Serve an agent until its connection ends.

        Raises:
            ProtocolError: It says what it should not.
        """
        join = parse_join(payload)
        refusal = self._refusal(join)
        if refusal:
            connection.send(Kind.REFUSED, refusal.encode())
            if refusal not in self._refused:
                self._refused.add(refusal)
                self._say(f"an agent at {connection.peer} was refused: {refusal}")
            return
        member = self._take_in(join, connection)
        try:
            while not member.is_lost:
                self._hear(member, *await connection.receive())
        except ConnectionLost as exc:
            if member.connection is connection and not member.is_lost:
                member.reason = f"its connection broke ({exc}) and it did not connect again"
                member.silent_at = min(member.silent_at, self._clock() + RETURN_LIMIT_S)
        finally:
            if member.connection is connection:
                member.connection = None
            self._changed.set()

    def _refusal(self, join: Join) -> str:
        if not 0 < join.rank < self._nodes:
            return f"rank {join.rank} is none of 1 to {self._nodes - 1}"
        if join.nodes != self._nodes:
            return f"it was told of {join.nodes} nodes, rank 0 of {self._nodes}"
        if join.job != self._job:
            return f"it belongs to job {join.job or '(none)'}, rank 0 to job {self._job or '(none)'}"
        if join.life in self._lost:
            return f"rank {join.rank} was taken for lost: {self._lost[join.life]}"
        return ""

    def _take_in(self, join: Join, connection: Connection) -> Member:
        known = self._members.get(join.rank)
        if known is not None and known.join.life == join.life:
            member = known
            if known.connection is not None:
                known.connection.abort()
            known.connection = connection
        else:
            if known is not None and not known.is_lost:
                self._lose(known, "another agent was started in its place")
            address = "" if connection.peer in {_OWN, "::1"} else connection.peer
            host = Host(join.rank, join.names[0], join.names, address, join.port, join.machine)
            member = self._members[join.rank] = Member(join, host, connection)
            self._events.write("joined", join.rank, host.name)
            if self._is_complete:
                self._say(f"node {host.name} (rank {join.rank}) has joined again")
                self._on_hosts([host], _OWN)
                for other in self._members.values():
                    if other is not member and other.connection is not None:
                        other.connection.send(Kind.HOSTS, pack_hosts([host]))
        member.silent_at = self._clock() + SILENCE_LIMIT_S
        if self._is_complete:
            connection.send(Kind.HOSTS, pack_hosts(self.hosts))
        self._changed.set()
        return member

    def _hear(self, member: Member, kind: Kind, payload: bytes) -> None:
        member.silent_at = self._clock() + SILENCE_LIMIT_S
        if kind == Kind.BEAT:
            if member.connection is not None:
                member.connection.send(Kind.BEAT)
        elif kind == Kind.READY:
            member.is_ready = True
            self._changed.set()
        elif kind == Kind.LEAVING:
            reason = payload.decode(errors="replace")
            member.reason = f"its agent ended: {reason}"
            self._events.write("leaving", member.join.rank, member.host.name, reason)
            self._say(f"node {member.host.name} (rank {member.join.rank}) is leaving: {reason}")
        else:
            raise ProtocolError(f"a frame {kind.name}, which rank 0 does not expect")

    async def watch(self) -> None:
        """Look for nodes that are silent, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            for member in () if self._is_over else self._members.values():
                if not member.is_lost and self._clock() > member.silent_at:
                    self._lose(member, member.reason or f"nothing was heard of it for {SILENCE_LIMIT_S:g} s")

    def _lose(self, member: Member, reason: str) -> None:
        member.is_lost = True
        self._lost[member.join.life] = reason
        member.reason = reason
        self._events.write("lost", member.join.rank, member.host.name, reason)
        self._say(f"node {member.host.name} (rank {member.join.rank}) is lost: {reason}")
        if member.connection is not None:
            member.connection.abort()
            member.connection = None
        self._changed.set()

    def dismiss(self, reason: str) -> None:
        """Tell all agents to end."""
        self._is_over = True
        self._tell_all(Kind.END, reason.encode())

    async def farewell(self) -> None:
        """Wait until all agents have ended, or are lost."""
        try:
            async with asyncio.timeout(FAREWELL_LIMIT_S):
                await self._until(lambda: not any(member.connection for member in self._members.values()))
        except TimeoutError:
            left = [member.join.rank for member in self._members.values() if member.connection]
            self._say(f"agents did not end within {FAREWELL_LIMIT_S:g} s: {self._describe(left)}")

    def _tell_all(self, kind: Kind, payload: bytes) -> None:
        for member in self._members.values():
            if member.connection is not None:
                member.connection.send(kind, payload)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()
