"""Ctrl-C, SIGTERM and SIGUSR1, turned into calls on the event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

BLOCKED_AFTER_S = 1.0
"""A loop that did not hear a signal for so long is blocked: the next Ctrl-C raises `KeyboardInterrupt` in it."""


class Interrupts:
    """Hears Ctrl-C and SIGTERM while entered: the first Ctrl-C drains, the second stops, SIGTERM stops at once.

    SIGUSR1 says that time runs out; batch systems send it when asked to.

    Entered inside a running loop. Outside the main thread it does nothing, since only that one hears signals. A signal
    that is ignored, or that the application handles on its loop itself, is left alone. When several are entered at a
    time each of them is called; once the last has been left, the handlers found by the first are back.

    Args:
        on_drain: Called on the loop at the first Ctrl-C; at most once.
        on_stop: Called on the loop at the second Ctrl-C, or at SIGTERM; at most once.
        on_out_of_time: Called on the loop at each SIGUSR1.
    """

    def __init__(
        self,
        on_drain: Callable[[], None],
        on_stop: Callable[[], None],
        on_out_of_time: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_drain = on_drain
        self._on_stop = on_stop
        self._on_out_of_time = on_out_of_time
        self._drained = False
        self._stopped = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            _post.add(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        _post.discard(self)

    def hear(self, signum: signal.Signals) -> None:
        """Take a signal; called on the loop."""
        if signum == signal.SIGUSR1:
            self._on_out_of_time()
        elif signum == signal.SIGINT and not self._drained:
            self._drained = True
            self._on_drain()
        elif not self._stopped:
            self._drained = self._stopped = True
            self._on_stop()


class _Post:
    """Brings signals to everyone who is entered; holds the process's handlers for that long."""

    def __init__(self) -> None:
        self._entered: list[Interrupts] = []
        self._found: dict[signal.Signals, Any] = {}
        """The handlers to put back."""
        self._unheard_since: float | None = None

    def add(self, interrupts: Interrupts) -> None:
        if not self._entered:
            self._install()
        self._entered.append(interrupts)

    def discard(self, interrupts: Interrupts) -> None:
        if interrupts in self._entered:
            self._entered.remove(interrupts)
            if not self._entered:
                self._put_back()

    def _install(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            handler = signal.getsignal(signum)
            # One made by `loop.add_signal_handler` cannot be put back: the loop forgets it when another is added.
            if handler in (signal.SIG_IGN, None) or getattr(handler, "__module__", "") == "asyncio.unix_events":
                continue
            if signum == signal.SIGUSR1 and handler != signal.SIG_DFL:
                continue  # it is the application's own
            loop.add_signal_handler(signum, self._deliver, signum)
            signal.signal(signum, self._arrive)  # the loop hears of it all the same, through its wake-up socket
            self._found[signum] = handler

    def _put_back(self) -> None:
        loop = asyncio.get_running_loop()
        self._unheard_since = None
        while self._found:
            signum, handler = self._found.popitem()
            loop.remove_signal_handler(signum)
            signal.signal(signum, handler)

    def _arrive(self, signum: int, _frame: FrameType | None) -> None:
        """See a signal between two instructions of the main thread, even when its loop is blocked."""
        now = time.monotonic()
        if self._unheard_since is None:
            self._unheard_since = now
        elif signum == signal.SIGINT and now - self._unheard_since >= BLOCKED_AFTER_S:
            self._unheard_since = None
            raise KeyboardInterrupt

    def _deliver(self, signum: signal.Signals) -> None:
        """Hear a signal on the loop."""
        self._unheard_since = None
        for each in tuple(self._entered):
            each.hear(signum)


_post = _Post()
