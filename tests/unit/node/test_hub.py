"""Rank 0 and another node's agent, over real connections that break."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import BackendError
from rhapsody.node import credentials, follower, hub, machine
from rhapsody.node.children import Nursery
from rhapsody.node.commands import Limits
from rhapsody.node.events import EventLog
from rhapsody.node.follower import Follower
from rhapsody.node.hub import Hub
from rhapsody.node.identity import Place
from rhapsody.node.listener import Listener
from rhapsody.node.messages import Host
from rhapsody.node.plan import Plan
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from rhapsody.node.connection import Connection
    from rhapsody.node.protocol import Kind


class RankZero:
    """A hub that listens.

    Attributes:
        connections: All that it ever had.
        said: What the user was told.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.connections: list[Connection] = []
        self.said: list[str] = []
        self.folder = folder
        self.nodes = nodes
        self._events = EventLog(folder / "events", self.said.append)
        self.listener = Listener(0, self._handle, self.said.append)
        self.listener.trust(credentials.make(folder / "secret"))
        plan = Plan(folder, Place(0, nodes), ("alpha",), job="7")
        own = Host(0, "alpha", ("alpha",), "", self.listener.port, machine.look())
        self.hub = Hub(plan, own, self._events, lambda *_: None, self.said.append)

    async def _handle(self, connection: Connection, _kind: Kind, payload: bytes) -> None:
        self.connections.append(connection)
        await self.hub.admit(connection, payload)

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "events").read_text().splitlines()]

    def follower(self, **changes: Any) -> Follower:  # noqa: ANN401 - parts of a plan
        """Return an agent of rank 1 that finds it."""
        hosts = ("127.0.0.1", *(f"node{rank}" for rank in range(1, self.nodes)))
        plan = Plan(
            self.folder,
            Place(1, self.nodes),
            ("beta",),
            job="7",
            hosts=hosts,
            port=self.listener.port,
            credentials=self.folder / "secret",
            join_limit_s=5,
        )
        return Follower(plan._replace(**changes), 1, lambda _: None, lambda *_: None, self.said.append)

    async def run(self, one: Follower) -> int:
        """Run an agent to its end; return its exit code."""
        try:
            return await one.work(Nursery(), {}, Limits(1, 1024))
        finally:
            await one.farewell()

    def close(self) -> None:
        self.listener.close()
        self._events.close()


@pytest.fixture
def rank_zero(tmp_path: Path) -> Callable[..., Any]:
    """Return what runs rank 0, with its helpers, while entered."""

    @asynccontextmanager
    async def run(nodes: int = 2) -> AsyncIterator[RankZero]:
        made = RankZero(tmp_path, nodes)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(made.listener.serve()), group.create_task(made.hub.watch())]
            try:
                yield made
            finally:
                for task in tasks:
                    task.cancel()
        made.close()

    return run


async def test_an_agent_whose_connection_broke_connects_again_and_is_not_lost(rank_zero: Callable[..., Any]) -> None:
    async with rank_zero() as zero, asyncio.TaskGroup() as group:
        following = group.create_task(zero.run(zero.follower()))
        await zero.hub.complete(5)

        zero.connections[0].abort()
        await eventually(lambda: len(zero.connections) == 2)
        zero.hub.dismiss("the test is over")
        assert await following == 0

    assert [event["event"] for event in zero.events()] == ["joined"]


async def test_an_agent_that_is_silent_is_lost_and_not_let_in_again(
    rank_zero: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "BEAT_S", 1000)
    monkeypatch.setattr(hub, "SILENCE_LIMIT_S", 0.3)
    monkeypatch.setattr(hub, "LOOK_S", 0.02)

    async with rank_zero() as zero, asyncio.TaskGroup() as group:
        following = group.create_task(zero.run(zero.follower()))
        await zero.hub.complete(5)

        assert await following == 1

    assert any("rank 0 is lost: it refuses: rank 1 was taken for lost" in line for line in zero.said)
    assert [event["event"] for event in zero.events()] == ["joined", "lost"]


async def test_an_agent_that_was_started_anew_takes_the_place_of_the_first(rank_zero: Callable[..., Any]) -> None:
    async with rank_zero() as zero, asyncio.TaskGroup() as group:
        first = group.create_task(zero.run(zero.follower()))
        await zero.hub.complete(5)

        second = group.create_task(zero.run(zero.follower()))
        await eventually(lambda: len(zero.events()) == 3)
        zero.hub.dismiss("the test is over")

        assert (await first, await second) == (1, 0)
    assert [event["event"] for event in zero.events()] == ["joined", "lost", "joined"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"place": Place(1, 3), "hosts": ("127.0.0.1", "b", "c")}, "it was told of 3 nodes, rank 0 of 2"),
        ({"job": "8"}, "it belongs to job 8, rank 0 to job 7"),
    ],
)
async def test_an_agent_of_another_job_is_refused_and_that_is_said_once(
    change: dict[str, Any], reason: str, rank_zero: Callable[..., Any]
) -> None:
    async with rank_zero() as zero:
        assert await zero.run(zero.follower(**change, join_limit_s=1)) == 1

    assert [line for line in zero.said if reason in line] == [
        f"an agent at 127.0.0.1 was refused: {reason}",
        f"rank 0 did not take this node in within 1 s: it refuses: {reason}",
    ]


async def test_who_is_missing_is_said_by_rank_or_name(rank_zero: Callable[..., Any]) -> None:
    async with rank_zero(4) as zero, asyncio.TaskGroup() as group:
        following = group.create_task(zero.run(zero.follower()))
        await eventually(lambda: len(zero.hub.hosts) == 2)

        with pytest.raises(BackendError, match=r"2 of 4 nodes did not join within 0\.1 s: rank 2, rank 3; look at"):
            await zero.hub.complete(0.1)

        zero.hub.dismiss("the test is over")
        await following
