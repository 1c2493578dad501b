"""The Dragon runtime on one node: the pool of the local backend, its workers started by Dragon."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rhapsody.backends.dragon import surroundings
from rhapsody.backends.dragon.frontend import Plan
from rhapsody.backends.dragon.starter import DragonStarter
from rhapsody.backends.node_pools import Runtime
from rhapsody.backends.pool_backend import PoolBackend
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from rhapsody.abc import Listener, RunContext


class DragonBackend(PoolBackend):
    """Runs everything on this node, by workers that are Dragon's processes; see `rhapsody.abc.Backend`."""

    name = "dragon"

    def __init__(self) -> None:
        super().__init__()
        self._plan: Plan

    async def start(self, context: RunContext, listener: Listener) -> None:
        """Bring Dragon up; see `Backend.start`."""
        surroundings.require_dragon(os.environ)
        cpus = len(os.sched_getaffinity(0))
        env = surroundings.variables(surroundings.free_shared_memory(), cpus, os.environ)
        node = context.allocation.nodes[0].name
        self._plan = Plan(log=str(context.logs / f"dragon-{node}.log"), env=env)
        if len(context.allocation.nodes) > 1:
            raise BackendError("TEMPORARY")
        await super().start(context, listener)

    def _runtime(self) -> Runtime:
        return Runtime(lambda left: DragonStarter(left, self._plan), "rhapsody.backends.dragon.executor")
