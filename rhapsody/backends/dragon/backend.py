"""The Dragon runtime on one node or several: the pools of the local backend, their workers started by Dragon."""

from __future__ import annotations

import asyncio
import marshal
import os
from typing import TYPE_CHECKING, Any

from rhapsody.backends import mpi
from rhapsody.backends.dragon import surroundings
from rhapsody.backends.dragon.hosts import DragonHost
from rhapsody.backends.dragon.plan import Plan, Role
from rhapsody.backends.dragon.starter import DragonStarter, FirstDragonStarter
from rhapsody.backends.node_pools import Runtime, own_rank
from rhapsody.backends.pool_backend import PoolBackend
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.abc import Listener, RunContext
    from rhapsody.backends.starter import KeeperStarter

_FIRST_PORT, _PORTS = 20_000, 10_000
"""Dragon's agents listen at one port on all hosts: sessions that share a host take different ones."""


class DragonBackend(PoolBackend):
    """Runs everything by workers that are Dragon's processes; see `rhapsody.abc.Backend`."""

    name = "dragon"

    def __init__(self) -> None:
        super().__init__()
        self._own = 0
        self._plan: Plan
        self._hosts: dict[int, DragonHost] = {}
        self._all_told: asyncio.Event

    async def start(self, context: RunContext, listener: Listener) -> None:
        """Bring Dragon up; see `Backend.start`."""
        surroundings.require_dragon(os.environ)
        nodes = context.allocation.nodes
        self._own = own_rank(nodes)
        if self._own < 0:
            raise BackendError(
                "the dragon backend starts Dragon's head program on the session's node, and that is none of the"
                f" allocation ({', '.join(node.name for node in nodes[:4])}, …); start the session on one of them"
            )
        env: dict[str, str] = {}
        if len(nodes) == 1:
            free, cpus = surroundings.free_shared_memory(), len(os.sched_getaffinity(0))
            env = surroundings.variables(free, cpus, os.environ)
        self._plan = Plan(log=str(context.logs.absolute() / f"dragon-{nodes[self._own].name}.log"), env=env)
        self._all_told = asyncio.Event()
        await super().start(context, listener)

    def _runtime(self) -> Runtime:
        other = self._plan._replace(role=Role.OTHER.value)
        return Runtime(
            self._make_starter, "rhapsody.backends.dragon.executor", marshal.dumps(other._asdict()), self._learn
        )

    def _make_starter(self, left: Path) -> KeeperStarter:
        if len(self._nodes) == 1:
            return DragonStarter(left, self._plan)
        plan = self._plan._replace(
            role=Role.FIRST.value,
            ssh=mpi.ssh_of_job(os.environ.get("PATH", os.defpath)),
            port=_FIRST_PORT + os.getpid() % _PORTS,
        )
        return FirstDragonStarter(left, plan, self._nodes[self._own].name, self._gather)

    def _learn(self, rank: int, told: tuple[Any, ...]) -> None:
        """Take what another node's host is to Dragon."""
        self._hosts[rank] = DragonHost(*told)
        if len(self._hosts) == len(self._nodes) - 1:
            self._all_told.set()

    async def _gather(self, own: DragonHost) -> Sequence[DragonHost]:
        """Return all hosts, this one first; a node that cannot tell ends the start."""
        await self._all_told.wait()
        return [own, *(self._hosts[rank] for rank in sorted(self._hosts))]
