"""Looks after a router's replicas: probes silent and ejected ones, ends what is in vain.

A replica that is silent while another is not is ejected until it has answered a probe. Where all are silent, such as
the only one, they may just have long requests: they go on getting more, and are ejected when probes fail, too.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rhapsody.inference.breaker import Fault, silent_among
from rhapsody.inference.client import AttemptFailed
from rhapsody.inference.replica import ReplicaState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from rhapsody.inference.client import Client
    from rhapsody.inference.router_pool import Member, Pool


class Keeper:
    """Looks at all pools again and again.

    Args:
        client: Sends the probes.
        pools: Gives the pools there are.
        probe_s: A probe must be answered within this time.
        ready_wait_s: How long a request waits without any replica being ready.
    """

    def __init__(
        self, client: Client, pools: Callable[[], Iterable[Pool]], probe_s: float, ready_wait_s: float
    ) -> None:
        self._client = client
        self._pools = pools
        self._probe_s = probe_s
        self._ready_wait_s = ready_wait_s

    @asynccontextmanager
    async def running(self, tick_s: float) -> AsyncIterator[None]:
        """Look so often, until the end of the block."""
        async with asyncio.TaskGroup() as probes:
            looking = probes.create_task(self._keep(probes, tick_s))
            try:
                yield
            finally:
                looking.cancel()

    async def _keep(self, probes: asyncio.TaskGroup, tick_s: float) -> None:
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                await asyncio.sleep(tick_s)
                for pool in list(self._pools()):
                    eject_silent(pool)
                    for member in _due(pool):
                        member.breaker.probe_begins()
                        task = probes.create_task(self.probe(pool, member))
                        running.add(task)
                        task.add_done_callback(running.discard)
                    pool.give_up(self._ready_wait_s)
        finally:
            for task in running:
                task.cancel()

    async def probe(self, pool: Pool, member: Member) -> None:
        """Try an ejected or silent replica; let it back in, or end what it still has."""
        breaker = member.breaker
        try:
            async with asyncio.timeout(self._probe_s):
                await self._client.probe(member.replica)
        except (AttemptFailed, TimeoutError) as exc:
            if not breaker.is_open and isinstance(exc, AttemptFailed) and 400 <= exc.status < 500:
                breaker.probe_answered()  # it does not take probes, but it does not hang
                return
            hopeless = breaker.probe_failed(exc.fault if isinstance(exc, AttemptFailed) else Fault.SILENT)
            why = str(exc) or f"no answer to a probe within {self._probe_s:g} s"
            if hopeless:
                _give_up(pool, member, why)
            if member.replica.state is ReplicaState.EJECTED:
                member.replica.reason = why
            return
        breaker.probe_answered()
        if member.replica.state is ReplicaState.EJECTED:
            member.replica.state, member.replica.reason = ReplicaState.READY, ""
        pool.changed()


def eject_silent(pool: Pool) -> None:
    """Eject replicas that have requests and show no progress, while another does."""
    watched = {member.breaker: member for member in pool.members.values() if not member.breaker.is_open}
    busy = [breaker for breaker, member in watched.items() if member.seats]
    for breaker in silent_among(busy, watched):
        member = watched[breaker]
        breaker.fell_silent()
        if member.is_ready:
            member.replica.state, member.replica.reason = ReplicaState.EJECTED, "it has requests, but nothing comes"
            pool.changed()


def _give_up(pool: Pool, member: Member, why: str) -> None:
    """Eject a replica, if it is not yet, and end what it still has."""
    if not member.breaker.is_open:
        member.breaker.gave_no_sign()
        if member.is_ready:
            member.replica.state, member.replica.reason = ReplicaState.EJECTED, why
            pool.changed()
    for seat in list(member.seats):
        seat.end_attempt(f"{member.replica.uid} was given up: {why}")


def _due(pool: Pool) -> list[Member]:
    return [member for member in pool.members.values() if member.breaker.probe_is_due(busy=bool(member.seats))]
