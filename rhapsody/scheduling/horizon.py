"""The end of the allocation as the placer sees it: what still ends in time, what does not, who is warned before."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from typing import TYPE_CHECKING, Any

from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.scheduling.queue import CHUNKED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.model.task import Task
    from rhapsody.scheduling.costs import Costs
    from rhapsody.scheduling.queue import Line, LineKey, ReadyQueue

_UNDER_WAY = (State.PLACED, State.RUNNING)
_ENTRIES_KEPT = 64


class Horizon:
    """Sets tasks aside that would not end before a moment. They stay READY, and nothing waits behind them.

    Args:
        end_ns: Nothing is started that is expected to end later; on the session's clock.
        clock: Returns nanoseconds on that clock.
        costs: Expected durations. What has none is started.
        warn: Called with attempts, as `(number, attempt)`, whose tasks want to know now that the end is near.
        notify: Called with one line for the user when the first task is set aside.

    Attributes:
        left_ns: Time until then at the last look.
    """

    def __init__(
        self,
        end_ns: int,
        clock: Callable[[], int],
        costs: Costs,
        warn: Callable[[Sequence[tuple[int, int]]], None],
        notify: Callable[[str], None],
    ) -> None:
        self._end_ns = end_ns
        self._clock = clock
        self._costs = costs
        self._warn = warn
        self._notify = notify
        self._told = False
        self._late: dict[tuple[LineKey, Any], deque[Task]] = {}
        """Tasks set aside whose expected duration was learned, so that it may turn out to be less."""
        self._to_warn: list[tuple[float, int, int, Task]] = []
        """A heap: seconds before the end as a negative number, then number and attempt of the task."""
        self._timer: asyncio.TimerHandle | None = None
        self._prune_at = _ENTRIES_KEPT
        self.left_ns = end_ns - clock()

    def look(self, queue: ReadyQueue) -> None:
        """See how much time is left, and queue again what fits into it by now, as its like took less than expected."""
        self.left_ns = self._end_ns - self._clock()
        if self._late:
            self._bring_back(queue)

    def _bring_back(self, queue: ReadyQueue) -> None:
        for name, tasks in list(self._late.items()):
            expected_ns = self._costs.expected_ns(tasks[0])  # type: ignore[arg-type]  # the intake knows no other kind
            if expected_ns is None or expected_ns <= self.left_ns:
                del self._late[name]
                line = queue.line(name[0])
                line.tasks.extendleft(reversed(tasks))
                queue.push(line)

    def admits(self, line: Line, ahead_ns: int = 0) -> bool:
        """Return whether a line's first task ends in time, once those at its head that do not are set aside.

        Args:
            line: Its head is ready, or it is empty.
            ahead_ns: Work that goes before it on the same slots.
        """
        left_ns = self.left_ns - ahead_ns
        while line.prune():
            expected_ns = self._costs.expected_ns(line.tasks[0])  # type: ignore[arg-type]
            if expected_ns is None or expected_ns <= left_ns:
                return True
            if not self._told:
                self._tell(line.tasks[0], expected_ns)
            self._set_aside(line)
        return False

    def _tell(self, task: Task, expected_ns: float) -> None:
        self._told = True
        expected_s, left_s = (round(max(0, time_ns) / 1e9, 1) for time_ns in (expected_ns, self.left_ns))
        self._notify(
            f"{task.uid} is not started: it is expected to take {expected_s:,g} s, and {left_s:,g} s are left; the same"
            " goes for others from now on"
        )

    def _set_aside(self, line: Line) -> None:
        """Take a line's first task away, and those behind it of the same function."""
        tasks = line.tasks
        task = tasks.popleft()
        if task.options.duration_s is not None or task.options.warn_s is not None:
            return  # it will never fit again; the scheduler knows it, and cancels it at the end
        aside = self._late.setdefault((line.key, self._costs.key_of(task)), deque())  # type: ignore[arg-type]
        if isinstance(task, ArrayTask):
            tasks.clear()
            aside.clear()
        aside.append(task)
        if line.key.alone == CHUNKED:
            function = task.function  # type: ignore[attr-defined]
            while tasks and tasks[0].function is function:  # type: ignore[attr-defined]
                aside.append(tasks.popleft())

    # Warnings

    def started(self, task: Task) -> None:
        """Note a task that was launched by itself: when its time has come it is warned, unless it has ended.

        One that is launched later than that is expected to end in time; a signal now would meet it unprepared.
        """
        warn_s = task.options.warn_s
        if warn_s is None or warn_s * 1e9 > self.left_ns:
            return
        if len(self._to_warn) >= self._prune_at:
            self._to_warn = [entry for entry in self._to_warn if _is_under_way(entry)]
            heapq.heapify(self._to_warn)
            self._prune_at = 2 * len(self._to_warn) + _ENTRIES_KEPT
        entry = (-warn_s, task.number, task.attempt, task)
        heapq.heappush(self._to_warn, entry)
        if self._to_warn[0] is entry:
            self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay_s = (self._end_ns - self._clock()) / 1e9 + self._to_warn[0][0]
        self._timer = asyncio.get_running_loop().call_later(max(0.0, delay_s), self._warn_them)

    def _warn_them(self) -> None:
        self._timer = None
        left_s = (self._end_ns - self._clock()) / 1e9
        due: list[tuple[int, int]] = []
        while self._to_warn and -self._to_warn[0][0] >= left_s:
            entry = heapq.heappop(self._to_warn)
            if _is_under_way(entry):
                due.append(entry[1:3])
        if self._to_warn:
            self._wait()
        if due:
            self._warn(due)

    def close(self) -> None:
        """Warn nobody any more."""
        self._to_warn.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_under_way(entry: tuple[float, int, int, Task]) -> bool:
    _, _, attempt, task = entry
    return task.attempt == attempt and task.state in _UNDER_WAY
