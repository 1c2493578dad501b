"""Ways to fail on purpose, for tests of what stands in front of a model server. Nothing else needs them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from pydantic import Field

from rhapsody.model.allocation import FrozenModel

if TYPE_CHECKING:
    from aiohttp import web

REORDER_WAIT_S = 0.5


class Faults(FrozenModel):
    """How a stand-in engine misbehaves; by default it does not. `/health` and `/metrics` go on as if all were well.

    Attributes:
        fail_after: Requests for answers that are served; each one after them gets the status 500.
        hang_after: The same, but those after them get no answer at all.
        delay_s: Real seconds that each request waits before the engine sees it.
        reorder: Every second whole answer goes out before the one ahead of it; one that none follows waits half a
            second. Streams are in order.
    """

    fail_after: int | None = Field(default=None, ge=0)
    hang_after: int | None = Field(default=None, ge=0)
    delay_s: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    reorder: bool = False


class Switches:
    """The faults of one engine, with what they must remember."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._seen = 0
        self._held: asyncio.Event | None = None

    async def before(self) -> bool:
        """Hold a request up as long as the switches say, maybe for ever; return whether it is to fail."""
        faults = self._faults
        self._seen += 1
        if faults.hang_after is not None and self._seen > faults.hang_after:
            await asyncio.Event().wait()
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        return faults.fail_after is not None and self._seen > faults.fail_after

    async def in_turn(self, answer: web.Response) -> web.Response:
        """Hold back every second answer until the next one goes out."""
        if not self._faults.reorder:
            return answer
        if self._held is not None:
            asyncio.get_running_loop().call_later(0.01, self._held.set)  # this one is sent before
            self._held = None
            return answer
        self._held = held = asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(REORDER_WAIT_S):
                await held.wait()
        if self._held is held:
            self._held = None
        return answer
