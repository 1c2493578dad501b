"""Starts workers by Dragon: the session's side."""

from __future__ import annotations

import asyncio
import marshal
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends import shared_memory
from rhapsody.backends.dragon import hosts, surroundings
from rhapsody.backends.dragon.plan import Plan, Role
from rhapsody.backends.dragon.warden import TRIES, start_limit_s
from rhapsody.backends.starter import KeeperStarter
from rhapsody.errors import BackendError
from rhapsody.node.processes import end_marked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from rhapsody.backends.dragon.hosts import DragonHost
    from rhapsody.backends.keeper import Duty

_MARGIN_S = 15.0
"""The warden keeps the limits of a start; it is given so much longer to say that they were not kept."""


class DragonStarter(KeeperStarter):
    """Has a warden start Dragon, and Dragon start workers.

    Args:
        left: File that the warden writes what workers have noted to, should this process die; None for none.
        plan: How Dragon is to be run.
    """

    _title = "rhapsody-warden"
    _module = "rhapsody.backends.dragon.warden"

    def __init__(self, left: Path | None, plan: Plan) -> None:
        super().__init__(left)
        self._plan = plan
        self._why = ""
        self._coming_up: asyncio.Future[None]
        self._folder: Path

    def _further(self) -> bytes:
        return marshal.dumps(self._plan._asdict())

    async def open(self, duty: Duty, on_exit: Callable[[int, int], None], on_lost: Callable[[str], None]) -> None:
        """Bring Dragon up; see `Starter.open`."""
        self._coming_up = asyncio.get_running_loop().create_future()
        self._folder = Path(duty.folder)

        def lost(reason: str) -> None:
            shared_memory.sweep(self._folder)  # the warden may have been killed
            if self._coming_up.done():
                on_lost(reason)
            else:
                self._coming_up.set_exception(BackendError(reason))

        await self._prepare()
        await super().open(duty, on_exit, lost)
        tries = 1 if self._plan.role == Role.OTHER else TRIES
        limit_s = tries * start_limit_s(self._plan) + _MARGIN_S
        try:
            await self._introduce()
            await asyncio.wait_for(self._coming_up, limit_s)
        except TimeoutError as exc:
            await self.aclose()
            raise BackendError(f"Dragon was not up within {limit_s:g} s; its log is {self._plan.log}") from exc
        except BaseException:  # cancellation too: nothing of Dragon may stay
            await self.aclose()
            raise

    async def _prepare(self) -> None:
        """Find out what is needed before the warden is started."""

    async def _introduce(self) -> None:
        """Tell of this host, once its warden is there."""

    async def aclose(self) -> None:
        """End Dragon and all that it has started; see `Starter.aclose`."""
        warden = self._process
        await super().aclose()
        if warden is not None and warden.returncode == -signal.SIGKILL:  # it did not end in time, and left something
            end_marked(*self.mark)
            shared_memory.sweep(self._folder)

    def _take(self, kind: str, *rest: Any) -> None:  # noqa: ANN401 - as the kind of message has it
        if kind == "up" and not self._coming_up.done():
            self._coming_up.set_result(None)
        elif kind == "lost":
            self._why = rest[0]
        else:
            super()._take(kind, *rest)

    def _why_lost(self, code: int | None) -> str:
        return self._why or super()._why_lost(code)


class FirstDragonStarter(DragonStarter):
    """Has the first host's warden start Dragon over several hosts.

    Args:
        left: As above.
        plan: How Dragon is to be run.
        node: Name of this node in the allocation.
        gather: Called with what Dragon has to know of this host; returns that of all, this one first.
    """

    def __init__(
        self,
        left: Path | None,
        plan: Plan,
        node: str,
        gather: Callable[[DragonHost], Awaitable[Sequence[DragonHost]]],
    ) -> None:
        super().__init__(left, plan)
        self._node = node
        self._gather = gather

    async def _prepare(self) -> None:
        found = await self._gather(await hosts.look(self._node, str(self._folder)))
        tightest, fewest_cpus = min(found, key=lambda host: host.free), min(host.cpus for host in found)
        env = self._plan.env | surroundings.variables(tightest.free, fewest_cpus, os.environ, tightest.name)
        self._plan = self._plan._replace(env=env, hosts=tuple(tuple(host) for host in found))


class OtherDragonStarter(DragonStarter):
    """Has another host's warden keep that host's part of Dragon.

    Args:
        left: As above.
        plan: How Dragon is to be run.
        node: Name of this node in the allocation.
        tell: Called with what Dragon has to know of this host.
    """

    def __init__(self, left: Path | None, plan: Plan, node: str, tell: Callable[[tuple[Any, ...]], None]) -> None:
        super().__init__(left, plan)
        self._node = node
        self._tell = tell

    async def _introduce(self) -> None:
        self._tell(tuple(await hosts.look(self._node, str(self._folder))))
