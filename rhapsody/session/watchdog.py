"""Tells a user whose code keeps the session's loop from turning: nothing starts then, and no service is reached.

The commonest way to get there: a blocking client, called in the campaign, of an address that the session itself serves.
It would wait for ever, without a word.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

TOLD_AFTER_S = 10.0
_PACKAGE = str(Path(__file__).parents[1])


class Watchdog:
    """Watches the loop that it is started in, from a thread of its own.

    Args:
        notify: Called, from that thread, with one line for the user: once for each time that the loop is blocked.
        after_s: Seconds without a turn of the loop that count as blocked.
    """

    def __init__(self, notify: Callable[[str], None], after_s: float = TOLD_AFTER_S) -> None:
        self._notify = notify
        self._after_s = after_s
        self._turned = 0.0
        self._over = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Watch from now on; called on the loop."""
        self._loop_thread = threading.get_ident()
        self._turn(asyncio.get_running_loop())
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Watch no more; may be called again, and without a start."""
        self._over.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned = time.monotonic()
        self._timer = loop.call_later(self._after_s / 4, self._turn, loop)

    def _watch(self) -> None:
        told_of = 0.0
        while not self._over.wait(self._after_s / 2):
            turned = self._turned
            if time.monotonic() - turned >= self._after_s and turned != told_of:
                told_of = turned
                where = _place_of(sys._current_frames().get(self._loop_thread))  # noqa: SLF001 - there is no other way
                self._notify(
                    f"the campaign has blocked the session for {self._after_s:g} s{where}: nothing starts meanwhile,"
                    " and services and the gateway do not answer; call what blocks by `await asyncio.to_thread(…)`, or"
                    " take an async client"
                )


def _place_of(frame: FrameType | None) -> str:
    """Return where a thread is in code that is the user's: the innermost that is neither ours nor a library's."""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((_PACKAGE, sys.prefix, sys.base_prefix, "<")):
            return f" in {frame.f_code.co_name}(), {Path(name).name}:{frame.f_lineno}"
        frame = frame.f_back
    return ""
