"""A user whose code blocks the loop is told so, with the place."""

from __future__ import annotations

import asyncio
import threading
import time

from rhapsody.session.watchdog import Watchdog
from tests.eventually import eventually


def wait_until(told: threading.Event) -> None:
    """Block as a campaign may, until somebody has said something."""
    assert told.wait(20)


async def test_blocked_loop_is_told_of_once_with_the_line_that_blocks() -> None:
    said: list[str] = []
    told = threading.Event()

    def notify(message: str) -> None:
        said.append(message)
        told.set()

    watchdog = Watchdog(notify, after_s=0.2)
    watchdog.start()
    await asyncio.sleep(0)

    wait_until(told)
    blocked_on = time.monotonic()
    await eventually(lambda: time.monotonic() - blocked_on > 0.5)
    watchdog.close()

    assert len(said) == 1
    assert "blocked the session for 0.2 s in wait_until(), test_watchdog.py:" in said[0]
    assert "asyncio.to_thread" in said[0]


async def test_loop_that_turns_is_not_told_of() -> None:
    said: list[str] = []
    watchdog = Watchdog(said.append, after_s=0.2)
    watchdog.start()

    began = time.monotonic()
    await eventually(lambda: time.monotonic() - began > 0.8)
    watchdog.close()
    watchdog.close()

    assert said == []
