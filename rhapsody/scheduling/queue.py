"""The ready queue: lines of tasks that ask for the same, ordered by priority, then by who came first."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.model.event import State

if TYPE_CHECKING:
    from rhapsody.model.policy import Policy
    from rhapsody.model.resources import Resources
    from rhapsody.model.task import Task
    from rhapsody.scheduling.costs import Costs

CHUNK_LIMIT = 2048
CHUNK_NS = 10_000_000
"""Work handed to one worker at a time, when its duration is known."""
CHUNKED = 0
SINGLY = -1
TIMED = -2
LINES_KEPT = 256
READY = State.READY


class LineKey(NamedTuple):
    """What the tasks of a line have in common.

    Attributes:
        priority: Effective: the task's plus its policy's.
        request: What each asks for.
        policy: Effective policy.
        alone: `CHUNKED` for functions, which may be handed over several at once; `TIMED` for those of which the user
            says how long they take, where that matters; `SINGLY` for executables and MPI; for an array task, its
            number: it has a line of its own.
    """

    priority: int
    request: Resources
    policy: Policy
    alone: int


class Line:
    """Ready tasks that ask for the same, first come first.

    Attributes:
        key: What they have in common.
        tasks: Those that are ready; some may have been cancelled since.
        queued: Whether the ready queue holds it.
        overtaken: Tasks that went ahead of it while its head did not fit.
    """

    __slots__ = ("key", "overtaken", "queued", "tasks")

    def __init__(self, key: LineKey) -> None:
        self.key = key
        self.tasks: deque[Task] = deque()
        self.queued = False
        self.overtaken = 0

    def prune(self) -> bool:
        """Drop cancelled tasks from the head; return whether any task is left."""
        tasks = self.tasks
        if self.key.alone > 0:
            if tasks and tasks[0].is_final:
                tasks.clear()
            return bool(tasks)
        while tasks and tasks[0].state is not READY:
            tasks.popleft()
        return bool(tasks)

    def take(self, costs: Costs, share: int, budget_ns: float = CHUNK_NS) -> list[Task]:
        """Return the next tasks for one worker: several when they are known to be quick, else one.

        Args:
            costs: Expected durations.
            share: At most so many, to leave some for others.
            budget_ns: Several are expected to end within this time; a single one may take longer.
        """
        tasks = self.tasks
        if self.key.alone:
            return self._take_apart(costs, share, budget_ns)
        taken: list[Task] = []
        limit = min(CHUNK_LIMIT, max(1, share))
        last: object = None
        cost_ns: float | None = None
        while tasks and len(taken) < limit and budget_ns > 0:
            task = tasks[0]
            if task.state is not READY:
                tasks.popleft()
                continue
            function = task.function  # type: ignore[attr-defined]
            if function is not last:
                cost_ns, last = costs.mean_ns(function), function
            if cost_ns is None:
                if not taken:
                    taken.append(tasks.popleft())
                break
            budget_ns -= cost_ns
            if taken and budget_ns < 0:
                break
            taken.append(tasks.popleft())
        return taken

    def _take_apart(self, costs: Costs, share: int, budget_ns: float) -> list[Task]:
        """Take tasks each of which has a duration of its own, or one that goes by itself."""
        tasks = self.tasks
        taken: list[Task] = []
        limit = min(CHUNK_LIMIT, max(1, share)) if self.key.alone == TIMED else 1
        while len(taken) < limit and self.prune():
            budget_ns -= costs.expected_ns(tasks[0]) or 0  # type: ignore[arg-type]
            if taken and budget_ns < 0:
                break
            taken.append(tasks.popleft())
        return taken


class ReadyQueue:
    """All lines with ready tasks."""

    def __init__(self) -> None:
        self._lines: dict[LineKey, Line] = {}
        self._heap: list[tuple[int, int, int, Line]] = []
        self._ties = 0

    def __len__(self) -> int:
        return sum(len(line.tasks) for line in self._lines.values())

    def line(self, key: LineKey) -> Line:
        """Return the line of a key, a new one if there is none."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(key)
        return line

    def push(self, line: Line) -> None:
        """Have a line considered that got tasks."""
        if not line.queued and line.tasks:
            line.queued = True
            self._ties += 1
            heapq.heappush(self._heap, (-line.key.priority, line.tasks[0].number, self._ties, line))

    def pop(self) -> Line | None:
        """Return the most urgent line that has a ready task; None when there is none. Push it back if some stay."""
        while self._heap:
            line = heapq.heappop(self._heap)[-1]
            line.queued = False
            if line.prune():
                return line
            self.forget(line)
        return None

    def forget(self, line: Line) -> None:
        """Drop a line that has run empty, unless more of the same is likely to come."""
        key = line.key
        if key.alone > 0 or key.policy.colocate_with is not None or len(self._lines) > LINES_KEPT:
            self._lines.pop(key, None)

    def is_next(self, line: Line) -> bool:
        """Return whether no other line goes before this one."""
        if not line.tasks:
            return False
        if not self._heap:
            return True
        priority, number, _, other = self._heap[0]
        return other is line or (-line.key.priority, line.tasks[0].number) <= (priority, number)
