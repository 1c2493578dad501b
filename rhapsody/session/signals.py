"""Ctrl-C and SIGTERM, turned into calls on the event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Interrupts:
    """Hears Ctrl-C and SIGTERM while entered: the first Ctrl-C drains, the second stops, SIGTERM stops at once.

    Entered inside a running loop. Outside the main thread it does nothing, since only that one hears signals. A signal
    that is ignored, or that the application handles on its loop itself, is left alone. When several are entered at a
    time each of them is called; once the last has been left, the handlers found by the first are back.

    Args:
        on_drain: Called on the loop at the first Ctrl-C; at most once.
        on_stop: Called on the loop at the second Ctrl-C, or at SIGTERM; at most once.
    """

    def __init__(self, on_drain: Callable[[], None], on_stop: Callable[[], None]) -> None:
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._drained = False
        self._stopped = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if not _entered:
                _install()
            _entered.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self in _entered:
            _entered.remove(self)
            if not _entered:
                _put_back()

    def hear(self, signum: signal.Signals) -> None:
        """Take a signal; called on the loop."""
        if signum == signal.SIGINT and not self._drained:
            self._drained = True
            self._on_drain()
        elif not self._stopped:
            self._drained = self._stopped = True
            self._on_stop()


_entered: list[Interrupts] = []
_found: dict[signal.Signals, Any] = {}
"""The handlers to put back."""


def _install() -> None:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(signum)
        # A handler made by `loop.add_signal_handler` cannot be put back: the loop forgets it when another is added.
        if handler in (signal.SIG_IGN, None) or getattr(handler, "__module__", "") == "asyncio.unix_events":
            continue
        loop.add_signal_handler(signum, _tell_all, signum)
        _found[signum] = handler


def _tell_all(signum: signal.Signals) -> None:
    for each in tuple(_entered):
        each.hear(signum)


def _put_back() -> None:
    loop = asyncio.get_running_loop()
    while _found:
        signum, handler = _found.popitem()
        loop.remove_signal_handler(signum)
        signal.signal(signum, handler)
