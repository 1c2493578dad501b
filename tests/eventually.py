"""Wait for something to become true, instead of sleeping and hoping."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.005


async def eventually(predicate: Callable[[], object], *, within_s: float = 5.0, what: str = "") -> None:
    """Return as soon as `predicate()` is true; it is asked every few milliseconds.

    What the predicate raises is passed on at once.

    Args:
        predicate: Asked on the event loop, so it must not block.
        within_s: How long to go on asking.
        what: The sentence that should have become true, for the error's text.

    Raises:
        AssertionError: It was still false at the end of the time.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + within_s
    while True:
        asked_in_time = clock() < deadline
        if predicate():
            return
        if not asked_in_time:
            name = what or getattr(predicate, "__qualname__", repr(predicate))
            raise AssertionError(f"not true within {within_s:g} s: {name}")
        await asyncio.sleep(POLL_S)
