"""The items of an array task on their way: what is left to run, what runs, what has ended."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.scheduling.retry import delay_before_next, delay_when_lost

if TYPE_CHECKING:
    from rhapsody.abc import RecalledItems, Report, RetryPolicy
    from rhapsody.model.array import ArrayTask
    from rhapsody.scheduling.costs import Costs

CHUNK_NS = 20_000_000
CHUNK_LIMIT = 65_536
FIRST_CHUNK = 4


class _Run:
    """One range of items that was launched."""

    __slots__ = ("failed", "lease", "left", "start", "stop")

    def __init__(self, start: int, stop: int, lease: Any) -> None:  # noqa: ANN401 - the scheduler's
        self.start = start
        self.stop = stop
        self.lease = lease
        self.left = stop - start
        self.failed: set[int] = set()


class ArrayRun:
    """Bookkeeping of one array task.

    Attributes:
        task: The array task.
        canceled: Nothing more is launched.
        recalled: Items that do not run, by the state that they ended in.
    """

    def __init__(self, task: ArrayTask, retry: RetryPolicy | None, recalled: RecalledItems | None = None) -> None:
        self.task = task
        self.canceled = False
        self._retry = retry
        self._todo: deque[tuple[int, int]] = deque([(0, len(task.items))] if len(task.items) else [])
        self._runs: dict[int, _Run] = {}
        self._attempts = 0
        self._tries: dict[int, int] = {}
        self._delayed: dict[int, tuple[State, Failure]] = {}
        """Items whose delay before another try is not over, each with how its last one ended."""
        self._woken: dict[int, tuple[State, Failure]] = {}
        """The same of those whose delay is over, until they are launched."""
        task.value = [None] * len(task.items)
        self.recalled: Counter[State] = Counter()
        if recalled is not None:
            self._leave_out(recalled)

    def _leave_out(self, known: RecalledItems) -> None:
        """Settle items that earlier sessions of the run have done, or may have."""
        ended: list[tuple[int, int]] = []
        for items, values, _ in known.done:
            self.task.value[slice(*items)] = values
            self.recalled[State.DONE] += items[1] - items[0]
            ended.append(items)
        for items, failure in known.unknown:
            self.task.failures.update(dict.fromkeys(range(*items), failure))
            self.recalled[failure.state] += items[1] - items[0]
            ended.append(items)
        self.task.settled = self.recalled.total()
        self._todo.clear()
        left = 0
        for start, stop in [*sorted(ended), (len(self.task.items),) * 2]:
            if left < start:
                self._todo.append((left, start))
            left = stop

    @property
    def has_more(self) -> bool:
        """Whether items wait to be launched."""
        return bool(self._todo)

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing more will."""
        return not self._runs and not self._todo and not self._delayed

    def attempts(self) -> list[int]:
        """Return the numbers of the launches that run."""
        return list(self._runs)

    def take(self, costs: Costs, lanes: int, left_ns: float = math.inf) -> tuple[int, int]:
        """Return the next range of items for one worker.

        Args:
            costs: Expected durations of one item.
            lanes: Workers that share what is left.
            left_ns: A range that is longer than one item is expected to end within this time.
        """
        start, stop = self._todo.popleft()
        size = self.task.chunk or self._fitting(costs, (stop - start) // (2 * max(1, lanes)))
        if left_ns < math.inf and (cost_ns := costs.expected_ns(self.task)) is not None:
            size = max(1, min(size, int(left_ns / cost_ns)))
        if start + size < stop:
            self._todo.appendleft((start + size, stop))
            stop = start + size
        if self._woken:
            for index in range(start, stop):
                self._woken.pop(index, None)
        return start, stop

    def _fitting(self, costs: Costs, share: int) -> int:
        cost_ns = costs.mean_ns(self.task.function)
        if cost_ns is None:
            return FIRST_CHUNK
        return max(1, min(CHUNK_LIMIT, share, int(CHUNK_NS / cost_ns)))

    def launched(self, items: tuple[int, int], lease: Any) -> int:  # noqa: ANN401 - the scheduler's
        """Note a range as launched; return the number of the launch."""
        self._attempts += 1
        self._runs[self._attempts] = _Run(*items, lease)
        return self._attempts

    def hear(self, report: Report, costs: Costs) -> tuple[Any, list[tuple[int, int, float]]]:
        """Take a report on some items.

        Returns:
            The lease when its launch is over, else None; and ranges to try again, each with a delay in seconds.
        """
        run = self._runs.get(report.attempt)
        if run is None or report.items is None or report.state is State.RUNNING:
            return None, []
        first, stop = report.items
        again: list[tuple[int, int, float]] = []
        if report.state is State.DONE:
            self.task.value[first:stop] = report.value
            failed = sum(1 for index in run.failed if first <= index < stop)
            self._settle(run, stop - first - failed, stop - first - failed)
            costs.learn(self.task.function, max(0, report.ended_ns - report.started_ns), max(1, stop - run.start))
        elif report.state is State.READY and not self.canceled:
            self._todo.appendleft((first, stop))
            self._settle(run, stop - first, 0)
        else:
            again = self._fail(run, report, first, stop)
        if run.left > 0:
            return None, again
        del self._runs[report.attempt]
        return run.lease, again

    def _settle(self, run: _Run, heard: int, ended: int) -> None:
        run.left -= heard
        self.task.settled += ended

    def _fail(self, run: _Run, report: Report, first: int, stop: int) -> list[tuple[int, int, float]]:
        """Settle failed items, or those to be tried again; a report counts each item once."""
        again: list[tuple[int, int, float]] = []
        failure = report.failure or Failure(Cause.CANCELED, "cancelled")
        for index in range(first, stop):
            if index in run.failed:
                continue
            run.failed.add(index)
            run.left -= 1
            delay_s = self._delay_of(index, failure, report.state)
            if delay_s is None:
                self.task.failures[index] = failure
                self.task.settled += 1
            else:
                again.append((index, index + 1, delay_s))
                self._delayed[index] = report.state, failure
        return again

    def _delay_of(self, index: int, failure: Failure, state: State) -> float | None:
        if self.canceled or failure.cause == Cause.CANCELED:
            return None
        tries = self._tries[index] = self._tries.get(index, 0) + 1
        delay_s = delay_before_next(self._retry, tries, failure)
        return delay_when_lost(state, tries, idempotent=self.task.options.idempotent) if delay_s is None else delay_s

    def again(self, first: int, stop: int) -> None:
        """Queue items whose delay is over."""
        if not self.canceled:
            for index in range(first, stop):
                self._woken[index] = self._delayed.pop(index)
            self._todo.append((first, stop))

    def cancel(self, state: State) -> Counter[tuple[State, State]]:
        """Launch nothing more; what waits to be launched ends in a state.

        Items that were launched before and should have been tried again stay as their last try has left them: that is
        what the journal knows of them.

        Returns:
            How many items went from which state to which.
        """
        self.canceled = True
        moves = self._drop_todo(state)
        moves += self._settle_tried(self._delayed, State.WAITING)
        return moves

    def refuse(self, failure: Failure) -> Counter[tuple[State, State]]:
        """Fail what waits to be launched; return how many items went from which state to which, as `cancel` does."""
        refused = [index for first, stop in self._todo for index in range(first, stop)]
        self.task.failures.update(dict.fromkeys(refused, failure))
        return self._drop_todo(State.FAILED)

    def _drop_todo(self, state: State) -> Counter[tuple[State, State]]:
        fresh = sum(stop - first for first, stop in self._todo) - len(self._woken)
        self._todo.clear()
        self.task.settled += fresh
        return Counter({(State.READY, state): fresh}) + self._settle_tried(self._woken, State.READY)

    def _settle_tried(self, tried: dict[int, tuple[State, Failure]], before: State) -> Counter[tuple[State, State]]:
        """Settle items as their last try has left them."""
        moves = Counter((before, state) for state, _ in tried.values())
        self.task.failures.update((index, failure) for index, (_, failure) in tried.items())
        self.task.settled += len(tried)
        tried.clear()
        return moves

    def outcome(self) -> tuple[State, Failure | None]:
        """Return how the array task ended."""
        failures = self.task.failures
        if self.canceled:
            return State.CANCELED, Failure(Cause.CANCELED, "cancelled")
        if not failures:
            return State.DONE, None
        index = min(failures)
        first = failures[index]
        text = f"{len(failures):,} of {len(self.task.items):,} items failed; the first is item {index}: {first.message}"
        return State.FAILED, Failure(first.cause, text, first.exception, first.traceback)
