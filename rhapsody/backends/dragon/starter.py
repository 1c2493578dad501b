"""Starts workers by Dragon: the session's side."""

from __future__ import annotations

import asyncio
import marshal
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends import shared_memory
from rhapsody.backends.dragon.warden import START_LIMIT_S, TRIES
from rhapsody.backends.starter import KeeperStarter
from rhapsody.errors import BackendError
from rhapsody.node.processes import end_marked

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.backends.dragon.frontend import Plan
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
        return marshal.dumps(tuple(self._plan))

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

        await super().open(duty, on_exit, lost)
        limit_s = TRIES * START_LIMIT_S + _MARGIN_S
        try:
            await asyncio.wait_for(self._coming_up, limit_s)
        except TimeoutError as exc:
            await self.aclose()
            raise BackendError(f"Dragon was not up within {limit_s:g} s; its log is {self._plan.log}") from exc
        except BaseException:  # cancellation too: nothing of Dragon may stay
            await self.aclose()
            raise

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
