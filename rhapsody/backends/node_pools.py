"""The worker pools of an allocation's nodes: in this process for the session's own node, by executors on the others."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.backends import salvage
from rhapsody.backends.campaign_module import FILE_VARIABLE, import_path
from rhapsody.backends.pool import Pool
from rhapsody.backends.pool_settings import PoolSettings
from rhapsody.backends.relay import Post
from rhapsody.backends.remote_pool import RemotePool
from rhapsody.node.private_folder import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from rhapsody.abc import Listener, RunContext
    from rhapsody.backends.member import Chunk, Lane
    from rhapsody.backends.starter import KeeperStarter
    from rhapsody.model.allocation import Node

STARTS_AT_ONCE = 64
"""So many executors are started at a time: each costs this node a Python and a handshake."""
# What a node has of its own, and is not handed from the session's node to others.
_OF_A_NODE = ("TMPDIR", "HOSTNAME", "DISPLAY", "RHAPSODY_HOSTFILE")
_OF_A_NODE_PREFIXES = ("RHAPSODY_NODE_", "SLURM", "PBS_", "PALS_", "FLUX_", "SSH_", "XDG_")


class Runtime(NamedTuple):
    """How workers are started.

    Attributes:
        make_starter: Given the file for what workers have noted, returns what starts them on this node.
        executor: Module whose `main` is the executor of other nodes.
        further: What that has to know of the runtime, marshalled.
        told: Called with the index of another node and what the runtime there tells while it is being started.
    """

    make_starter: Callable[[Path], KeeperStarter]
    executor: str
    further: bytes = b""
    told: Callable[[int, tuple[Any, ...]], None] = lambda _rank, _told: None


class NodePools:
    """A pool for each node.

    Args:
        runtime: How workers are started.
        context: Of the run.
        listener: Hears of what happens.
    """

    def __init__(self, runtime: Runtime, context: RunContext, listener: Listener) -> None:
        self._runtime = runtime
        self._context = context
        self._listener = listener
        self.sys_path = import_path()
        self.campaign_file = os.environ.get(FILE_VARIABLE, "")
        nodes = context.allocation.nodes
        self._own = own_rank(nodes)
        self._post = self._post_of_all()
        self.shared = salvage.shared_folder(context.run_dir.absolute(), context.session)
        """For what all nodes have to see; there while the session runs, where there are several."""
        self._pools: dict[int, Pool | RemotePool] = {
            rank: self._own_pool(rank, node) if rank == self._own else self._remote_pool(rank, node)
            for rank, node in enumerate(nodes)
        }

    def _own_pool(self, rank: int, node: Node) -> Pool:
        context = self._context
        settings = PoolSettings(
            node=node.name,
            log=context.logs / f"workers-{node.name}.log",
            clock_offset_ns=context.clock_offset_ns,
            env=context.env,
            cwd=str(Path.cwd()),
            sys_path=self.sys_path,
            campaign_file=self.campaign_file,
        )
        self._starter = self._runtime.make_starter(salvage.left_path(context.run_dir, context.session, node.name))
        return Pool(self._starter, settings, self._listener.hear, lambda reason: self._lose(rank, reason))

    def _post_of_all(self) -> Post:
        """Return what every executor is told; only the node differs."""
        context = self._context
        return Post(
            node="",
            rank=-1,
            session=context.session,
            run_dir=str(context.run_dir.absolute()),
            logs=str(context.logs.absolute()),
            cwd=str(Path.cwd()),
            env=context.env,
            variables=_variables_for_others(),
            sys_path=self.sys_path,
            campaign_file=self.campaign_file,
            further=self._runtime.further,
        )

    def _remote_pool(self, rank: int, node: Node) -> RemotePool:
        return RemotePool(
            self._runtime.executor,
            self._post._replace(node=node.name, rank=rank),
            self._context.clock_offset_ns,
            self._listener.hear,
            lambda reason: self._lose(rank, reason),
            lambda told: self._runtime.told(rank, told),
        )

    def __getitem__(self, rank: int) -> Pool | RemotePool:
        return self._pools[rank]

    def __iter__(self) -> Iterator[Pool | RemotePool]:
        return iter(self._pools.values())

    async def start(self) -> None:
        """Start them all; if one does not come up, none is left.

        Raises:
            BackendError: One did not come up.
        """
        self._context.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(self._pools) > 1:
            self.shared.mkdir(mode=0o700, parents=True, exist_ok=True)
        places = asyncio.Semaphore(STARTS_AT_ONCE)

        async def start(rank: int, pool: Pool | RemotePool) -> None:
            async with places:
                await pool.start()
            if rank == self._own:
                self._put_on_record(rank)

        try:
            async with asyncio.TaskGroup() as group:
                for rank, pool in self._pools.items():
                    group.create_task(start(rank, pool))
        except BaseException as exc:  # cancellation too: nothing may stay
            await self.aclose()
            if isinstance(exc, BaseExceptionGroup):
                raise exc.exceptions[0] from None
            raise

    def _put_on_record(self, rank: int) -> None:
        context, pool, starter = self._context, self._pools[rank], self._starter
        name = context.allocation.nodes[rank].name
        deployed = salvage.Deployed.here(name, starter.keeper, Path(pool.folder), starter.mark)
        salvage.write_record(salvage.record_path(context.run_dir, context.session, rank), deployed)

    def define(self, function_id: int, blob: bytes) -> None:
        """Make a function known to all nodes; each gets it when it first needs it."""
        for pool in self:
            pool.define(function_id, blob)

    def forget(self, function_id: int) -> None:
        """Drop a function that no later chunk uses."""
        for pool in self:
            pool.forget(function_id)

    def feed(self, rank: int, lane: Lane, chunk: Chunk) -> None:
        """Hand a chunk to a lane of a node."""
        self._pools[rank].feed(lane, chunk)

    def cancel(self, attempts: Collection[tuple[int, int]]) -> None:
        """Stop attempts; see `Pool.cancel`."""
        for pool in self:
            pool.cancel(attempts)

    def warn(self, attempts: Collection[tuple[int, int]]) -> None:
        """Have SIGUSR1 sent to executables; see `Pool.warn`."""
        for pool in self:
            pool.warn(attempts)

    async def aclose(self) -> None:
        """End every worker on every node. May be called again."""
        async with asyncio.TaskGroup() as group:
            for pool in self:
                group.create_task(pool.aclose())
        salvage.record_path(self._context.run_dir, self._context.session, self._own).unlink(missing_ok=True)
        shutil.rmtree(self.shared, ignore_errors=True)

    def _lose(self, rank: int, reason: str) -> None:
        if len(self._pools) == 1:
            self._listener.broken(reason)
        else:
            self._listener.nodes_lost([rank], reason)


def own_rank(nodes: tuple[Node, ...]) -> int:
    """Return the index of this machine among nodes, -1 if it is none of them; the only one is taken to be this one."""
    if len(nodes) == 1:
        return 0
    hostname = socket.gethostname()
    names = {hostname, hostname.partition(".")[0], "localhost", os.environ.get(NAME, hostname)}
    return next((rank for rank, node in enumerate(nodes) if node.name in names), -1)


def _variables_for_others() -> dict[str, str]:
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_A_NODE and not name.startswith(_OF_A_NODE_PREFIXES)
    }
