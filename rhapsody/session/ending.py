"""How a session is brought to its end before its campaign is: by Ctrl-C, from elsewhere, or since time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.model.event import State

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from rhapsody.scheduling.scheduler import Scheduler

_UNDER_WAY = (State.RUNNING, State.PLACED)


class Ending:
    """Drains and stops one session.

    Args:
        notify: Called with one-line messages for the user.
        limit_s: Seconds that closing takes at most, for people.

    Attributes:
        owner: Who opened the session, and is cancelled when it stops.
        draining: Whether running tasks were let end, on somebody's wish.
        interrupted: Whether somebody wished the session to end.
        closed: Whether it is closing already.
    """

    def __init__(self, notify: Callable[[str], None], limit_s: float) -> None:
        self._notify = notify
        self._limit_s = limit_s
        self._scheduler: Scheduler | None = None
        self._stopped = False
        self.owner: asyncio.Task[Any] | None = None
        self.draining = False
        self.interrupted = False
        self.closed = False

    def watch(self, scheduler: Scheduler) -> None:
        """End this from now on."""
        self._scheduler = scheduler

    def drain(self) -> None:
        """Let what runs end and start nothing new: the first Ctrl-C."""
        if self.draining or self.closed:
            return
        self.draining = self.interrupted = True
        running = 0
        if self._scheduler is not None:
            running = sum(task.state in _UNDER_WAY for task in self._scheduler.tasks)
            self._scheduler.close("the session drains")
        self._notify(f"draining: {running} running tasks end, nothing new starts; Ctrl-C again stops them")

    def stop(self) -> None:
        """End what runs: the second Ctrl-C. Whoever opened the session is cancelled, and closes it."""
        if self.closed:
            self._notify(f"closing already, within {self._limit_s:g} s")
            return
        self.interrupted = True
        self._stop("stopping: running tasks are ended")

    def asked(self, drain: bool) -> None:  # noqa: FBT001 - what the lease hears
        """Do as somebody elsewhere says who cancels the run."""
        if drain:
            self.drain()
        elif not self.closed:
            self.interrupted = True
            self._stop("cancelled: running tasks are ended")

    def taken_over(self, reason: str) -> None:
        """End what runs: the run is another session's now."""
        self.interrupted = True
        self._stop(f"{reason}; this session ends")

    def ran_out(self) -> None:
        """End what runs, shortly before the allocation ends."""
        self._stop("out of time: running tasks are ended")

    def _stop(self, message: str) -> None:
        self._notify(message)
        if self._scheduler is not None:
            self._scheduler.close("the session stops")
            self._scheduler.cancel(self._scheduler.tasks)
        if self.owner is not None and not self._stopped:
            self._stopped = True
            self.owner.cancel()
