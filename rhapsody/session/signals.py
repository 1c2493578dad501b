"""Ctrl-C and SIGTERM, turned into calls on the event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from typing import TYPE_CHECKING, Any, ClassVar, Self

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

    _entered: ClassVar[list[Interrupts]] = []
    _found: ClassVar[dict[signal.Signals, Any]] = {}
    """The handlers to put back."""

    def __init__(self, on_drain: Callable[[], None], on_stop: Callable[[], None]) -> None:
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._drained = False
        self._stopped = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            if not self._entered:
                _install(self._found)
            self._entered.append(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self in self._entered:
            self._entered.remove(self)
            if not self._entered:
                _put_back(self._found)

    @classmethod
    def _hear(cls, signum: signal.Signals) -> None:
        for each in tuple(cls._entered):
            if signum == signal.SIGINT and not each._drained:
                each._drained = True
                each._on_drain()
            elif not each._stopped:
                each._drained = each._stopped = True
                each._on_stop()


def _install(found: dict[signal.Signals, Any]) -> None:
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(signum)
        # A handler made by `loop.add_signal_handler` cannot be put back: the loop forgets it when another is added.
        if handler in (signal.SIG_IGN, None) or getattr(handler, "__module__", "") == "asyncio.unix_events":
            continue
        loop.add_signal_handler(signum, Interrupts._hear, signum)  # noqa: SLF001 - this module's own class
        found[signum] = handler


def _put_back(found: dict[signal.Signals, Any]) -> None:
    loop = asyncio.get_running_loop()
    while found:
        signum, handler = found.popitem()
        loop.remove_signal_handler(signum)
        signal.signal(signum, handler)
