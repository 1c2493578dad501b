"""Sees to it that a session is over before its allocation is: drains, warns and stops in time."""

from __future__ import annotations

import asyncio
import math
import os
import time
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.model.event import State
from rhapsody.model.time_left import DEADLINE_VARIABLE
from rhapsody.session.deadline import Deadline, duration, find_deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.abc import Backend
    from rhapsody.scheduling.scheduler import Scheduler

DRAIN_S = 60.0
DRAIN_SHARE = 0.1
"""Seconds before the end from which on nothing new starts, at most this share of the whole."""
STOP_S = 10.0
STOP_SHARE = 0.05
STOP_DRAIN_SHARE = 0.9
"""Seconds before the end at which what still runs is ended, at most these shares of the whole and of the drain. Ten are
enough for executables that do not heed SIGTERM, and are killed five seconds later."""
_CLOSING_SHARE = 0.7
"""Of the time that is left when the session is closed, tasks get so much to end gently."""
_UNDER_WAY = (State.PLACED, State.RUNNING)


class Timekeeper:
    """The time of one session.

    Args:
        walltime_s: Seconds from the session's opening until the allocation ends, if the user says so.
        drain_s: Seconds before the end from which on nothing new starts, if the user says so.
        notify: Called with one-line messages for the user.

    Attributes:
        out_of_time: Whether nothing new starts any more since the end is near.
        stop_at_s: When running tasks are ended, in seconds since the epoch.

    Raises:
        SpecError: Walltime or drain are no positive numbers.
    """

    def __init__(self, walltime_s: float | None, drain_s: float | None, notify: Callable[[str], None]) -> None:
        for name, value in (("walltime_s", walltime_s), ("drain_s", drain_s)):
            _require_seconds(name, value)
        self._walltime_s = walltime_s
        self._drain_s = drain_s
        self._notify = notify
        self._deadline: Deadline | None = None
        self._drain_at_s = math.inf
        self._scheduler: Scheduler | None = None
        self._backend: Backend | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._canceled_before = 0
        self.out_of_time = False
        self.stop_at_s = math.inf

    async def look(self) -> None:
        """Find out when the allocation ends, and tell the user; called once, when the session is opened.

        Raises:
            SpecError: A variable holds nonsense, or the drain would begin at once.
        """
        opened_s = time.time()
        found, remark = await find_deadline(self._walltime_s, opened_s, os.environ)
        if remark:
            self._notify(remark)
        if found is None:
            return
        whole_s = found.at_s - opened_s
        drain_s = min(DRAIN_S, DRAIN_SHARE * whole_s) if self._drain_s is None else self._drain_s
        stop_s = min(STOP_S, STOP_SHARE * whole_s, STOP_DRAIN_SHARE * drain_s)
        if drain_s >= whole_s:
            raise SpecError(f"drain_s={drain_s:g} leaves no time: the allocation ends in {duration(whole_s)}")
        self._deadline, self.stop_at_s, self._drain_at_s = found, found.at_s - stop_s, found.at_s - drain_s
        self._notify(f"the allocation ends in {duration(whole_s)} ({found.source})")

    @property
    def facts(self) -> dict[str, float]:
        """What `run.json` says of it: the end of the allocation, in seconds since the epoch."""
        return {} if self._deadline is None else {"deadline": self._deadline.at_s}

    @property
    def env(self) -> dict[str, str]:
        """Variables from which tasks learn how much time is left."""
        return {} if self._deadline is None else {DEADLINE_VARIABLE: f"{self.stop_at_s:.3f}"}

    def time_left(self) -> float:
        """Return the seconds until what runs is ended; `math.inf` where no end is known, never negative."""
        return max(0.0, self.stop_at_s - time.time())

    def watch(self, scheduler: Scheduler, backend: Backend, on_stop: Callable[[], None]) -> None:
        """Act when the time has come.

        Args:
            scheduler: Starts nothing that would not end in time, and is closed when the drain begins.
            backend: Warns tasks.
            on_stop: Called when running tasks are to be ended.
        """
        self._scheduler, self._backend = scheduler, backend
        if self._deadline is None:
            return
        scheduler.finish_by(int(self.stop_at_s * 1e9))
        now_s = time.time()
        left_s = self._deadline.at_s - self._drain_at_s
        loop = asyncio.get_running_loop()
        self._timers = [
            loop.call_later(self._drain_at_s - now_s, self.run_out, f"the allocation ends in {duration(left_s)}"),
            loop.call_later(self.stop_at_s - now_s, on_stop),
        ]

    def run_out(self, why: str) -> None:
        """Begin the drain: nothing new starts. Where nobody knows when the end will be, tasks are warned at once."""
        scheduler = self._scheduler
        if self.out_of_time or scheduler is None:
            return
        self.out_of_time = True
        self._canceled_before = scheduler.counts[State.CANCELED]
        running = [task for task in scheduler.tasks if task.state in _UNDER_WAY]
        self._notify(f"out of time: {why}; {len(running)} running tasks go on, nothing new starts")
        if self._deadline is None and self._backend is not None:
            self._backend.warn([(task.number, task.attempt) for task in running if task.options.warn_s is not None])
        scheduler.close(f"out of time: {why}")

    def signaled(self) -> None:
        """Begin the drain because the batch system, or somebody, sent SIGUSR1."""
        self.run_out("SIGUSR1 was received")

    @property
    def left(self) -> int:
        """Tasks that were cancelled since the drain began; items of array tasks count each."""
        if not self.out_of_time or self._scheduler is None:
            return 0
        return self._scheduler.counts[State.CANCELED] - self._canceled_before

    def at_most(self, limit_s: float) -> float:
        """Return how long tasks may take to end when the session is closed."""
        if self._deadline is None:
            return limit_s
        return min(limit_s, max(0.0, _CLOSING_SHARE * (self._deadline.at_s - time.time())))

    def close(self) -> None:
        """Do nothing any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers = []


def _require_seconds(name: str, value: object) -> None:
    if value is not None and (
        isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf
    ):
        raise SpecError(f"Session({name}={value!r}) must be a positive number of seconds")
