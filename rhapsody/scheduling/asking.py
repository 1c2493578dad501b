"""Model requests from ready to their end: they take no slot, so nothing but the journal keeps them waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.abc import Assignment
from rhapsody.model.ai import AITask
from rhapsody.model.event import State
from rhapsody.model.resources import Placement

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.abc import EventSink, Report
    from rhapsody.model.task import Task
    from rhapsody.scheduling.items import Ledger

READY, PLACED, RUNNING, DONE = State.READY, State.PLACED, State.RUNNING, State.DONE
NOWHERE = Placement(())
"""Of what takes no slot."""


class Asking:
    """The scheduler's hand for model requests, which come and go by the thousand: in batches, each a few records.

    Args:
        sink: Told of every change of state.
        live: Tasks that have not ended, by number.
        ledger: What is kept for all tasks.
        settle: Called with a request and the report of an end other than DONE.
        finish: Called with requests that are DONE, once that is recorded.
    """

    def __init__(
        self,
        sink: EventSink,
        live: dict[int, Task],
        ledger: Ledger,
        settle: Callable[[Task, Report], None],
        finish: Callable[[list[Task]], None],
    ) -> None:
        self._sink = sink
        self._live = live
        self._ledger = ledger
        self._settle = settle
        self._finish = finish
        self._ready: list[Task] = []
        self._heard: list[tuple[Task, Report]] = []

    def join(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """Take the model requests among ready tasks; return the others."""
        if AITask not in set(map(type, tasks)):
            return tasks
        self._ready += [task for task in tasks if type(task) is AITask]
        return [task for task in tasks if type(task) is not AITask]

    def take(self) -> list[Assignment]:
        """Return all that are ready, to be launched together."""
        if not self._ready:
            return []
        ready, self._ready = self._ready, []
        tasks = [task for task in ready if task.state is READY]  # some may have been cancelled
        for task in tasks:
            task.state = PLACED
            task.attempt += 1
        self._ledger.move(len(tasks), READY, PLACED)
        return [Assignment(NOWHERE, tasks)] if tasks else []

    def note(self, task: Task, report: Report) -> None:
        """Keep a report until all of its batch were looked at."""
        self._heard.append((task, report))

    def hear(self) -> None:
        """Take the reports that were kept."""
        if not self._heard:
            return
        heard, self._heard = self._heard, []
        current = [(task, report) for task, report in heard if _is_current(task, report)]
        self._enter_running(current)
        done = [(task, report) for task, report in current if report.state is DONE and task.state is RUNNING]
        if done:
            self._end_well([task for task, _ in done], done)
        for task, report in current:
            if report.state not in (RUNNING, DONE) and _is_current(task, report):
                self._settle(task, report)

    def _enter_running(self, heard: Sequence[tuple[Task, Report]]) -> None:
        started: dict[Task, int] = {}
        for task, report in heard:
            if task.state is PLACED and (report.started_ns or report.state is DONE):
                started.setdefault(task, report.started_ns or report.ended_ns)
        if not started:
            return
        self._sink.entered(RUNNING, list(started), list(started.values()))
        self._ledger.move(len(started), PLACED, RUNNING)
        for task in started:
            task.state = RUNNING
            self._ledger.running[task.number] = task

    def _end_well(self, tasks: list[Task], heard: Sequence[tuple[Task, Report]]) -> None:
        for task, report in heard:
            task.state, task.value, task.stdio = DONE, report.value, report.stdio
            self._ledger.running.pop(task.number, None)
            del self._live[task.number]
        self._sink.entered(DONE, tasks, [report.ended_ns for _, report in heard])
        self._ledger.move(len(tasks), RUNNING, DONE)
        self._finish(tasks)


def is_queued(task: Task) -> bool:
    """Return whether a task is a model request that was handed over, and that nobody was asked yet."""
    return type(task) is AITask and task.state is PLACED


def _is_current(task: Task, report: Report) -> bool:
    """Return whether a report is on the current attempt, and that has not ended."""
    return task.attempt == report.attempt and task.state in (PLACED, RUNNING)
