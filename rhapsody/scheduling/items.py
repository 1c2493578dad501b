"""Array tasks from ready to their end: what is heard of their items, which are tried again, when all is over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.model.event import State

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from rhapsody.abc import EventSink, Report
    from rhapsody.model.array import ArrayTask
    from rhapsody.model.outcome import Failure
    from rhapsody.model.task import Task
    from rhapsody.scheduling.arrays import ArrayRun
    from rhapsody.scheduling.placer import Lease, Placer

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
CANCELED = State.CANCELED


class Ledger(NamedTuple):
    """What array tasks and all others share of the scheduler's books.

    Attributes:
        running: Tasks seen RUNNING, by number.
        move: Called with a count and two states when so many tasks or items leave one for the other.
        end: Called to settle a task: its state, when, and why.
        cycle: Called when there is something to be placed.
    """

    running: dict[int, Task]
    move: Callable[[int, State, State], None]
    end: Callable[[Task, State, int, Failure | None], None]
    cycle: Callable[[], None]


class Items:
    """The scheduler's hand for array tasks, whose items are counted, launched and reported in ranges.

    Args:
        placer: Launches ranges.
        sink: Told of every change of state.
        clock: Returns nanoseconds on the session's clock.
        ledger: What is kept for all tasks.

    Attributes:
        closed: Nothing more is launched.
    """

    def __init__(self, placer: Placer, sink: EventSink, clock: Callable[[], int], ledger: Ledger) -> None:
        self._placer = placer
        self._sink = sink
        self._clock = clock
        self._ledger = ledger
        self.closed = False

    def run_of(self, task: Task) -> ArrayRun | None:
        """Return the bookkeeping of an array task that was queued and has not ended; None for any other task."""
        return self._placer.arrays.get(task.number)

    def queued(self, task: ArrayTask) -> None:
        """Count the items that earlier sessions have settled, of an array task that has just joined its line."""
        run = self._placer.arrays[task.number]
        for state, count in run.recalled.items():
            self._ledger.move(count, READY, state)
        if not run.has_more:
            self.go_on_with(run)

    def refuse(self, run: ArrayRun, failure: Failure) -> None:
        """Fail the items that wait to be launched."""
        self._move_all(run.refuse(failure))
        self.go_on_with(run)

    def hear(self, task: ArrayTask, report: Report, hungry: list[Lease]) -> None:
        """Take a report on some items; note the lease that it leaves as hungry when that runs dry."""
        run = self.run_of(task)
        if run is None or report.items is None or report.attempt not in run.attempts():
            return  # fenced
        if task.state is PLACED and report.started_ns:
            task.state = RUNNING
            self._ledger.running[task.number] = task
        first, stop = report.items
        before = task.settled
        task.attempt = report.attempt
        state = CANCELED if report.state is READY and run.canceled else report.state
        lease, again = run.hear(report, self._placer.costs)
        moment = report.ended_ns or report.started_ns or self._clock()
        detail = report.failure.message if report.failure is not None else ""
        self._sink.items_entered(state, task, report.items, moment, detail)
        if state is READY:
            self._ledger.move(stop - first, PLACED, READY)
        elif state is not RUNNING:
            self._ledger.move(task.settled - before, PLACED, state)
        self._try_again(run, again)
        if lease is not None:
            lease.left(hungry)
        self.go_on_with(run)

    def _try_again(self, run: ArrayRun, again: Sequence[tuple[int, int, float]]) -> None:
        for start, end, delay_s in again:
            self._ledger.move(end - start, PLACED, WAITING)
            asyncio.get_running_loop().call_later(delay_s, self._wake, run, (start, end))

    def _wake(self, run: ArrayRun, items: tuple[int, int]) -> None:
        """Queue items whose delay before the next attempt is over."""
        if not run.canceled and self.run_of(run.task) is run:
            run.again(*items)
            self._ledger.move(items[1] - items[0], WAITING, READY)
            self.go_on_with(run)
            self._ledger.cycle()

    def go_on_with(self, run: ArrayRun) -> None:
        """Queue an array task that has items left; end one that has none."""
        if self.closed and run.has_more:
            self.drop(run, CANCELED)
        if run.is_over:
            state, failure = run.outcome()
            self._ledger.end(run.task, state, self._clock(), failure)
        elif run.has_more:
            self._placer.join_items(run.task)

    def go_on_with_all(self) -> None:
        """Look at all array tasks again: of some nothing runs just now, so that no report would end them."""
        for run in list(self._placer.arrays.values()):
            self.go_on_with(run)

    def cancel(self, run: ArrayRun) -> list[tuple[int, int]]:
        """Launch no more items; return what is to be stopped, as `(number, attempt)`."""
        self.drop(run, CANCELED)
        attempts = [(run.task.number, attempt) for attempt in run.attempts()]
        self.go_on_with(run)
        return attempts

    def drop(self, run: ArrayRun, state: State) -> None:
        """Launch no more of an array task; its items that were never launched end in this state."""
        self._move_all(run.cancel(state))

    def _move_all(self, moves: Counter[tuple[State, State]]) -> None:
        for (before, after), count in moves.items():
            self._ledger.move(count, before, after)
