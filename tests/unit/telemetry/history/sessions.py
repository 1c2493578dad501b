"""Runs of several sessions, written by hand: each session submits tasks, as a scheduler does, until it dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.abc import NO_EDGES, Aftermath, Assignment, Recalled, RecalledItems, Report
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure, Stdio
from rhapsody.model.task import ComputeTask, TaskOptions
from rhapsody.scheduling.graph import dependencies_of
from rhapsody.scheduling.resumption import take_over
from rhapsody.telemetry.history.past import Past
from rhapsody.telemetry.journal import Journal
from tests.unit.telemetry.twin import RUN, on_core

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rhapsody.model.task import Task


def work(value: object = None, *_: object) -> object:
    return value


def other_work(value: object = None) -> object:
    return [value]


def task(*args: object, uid: str | None = None, **options: Any) -> ComputeTask:  # noqa: ANN401 - of the task
    return ComputeTask(work, args=args, uid=uid, **options)


def array(length: int, uid: str | None = None, *, idempotent: bool = False) -> ArrayTask:
    return ArrayTask(work, range(length), uid=uid, options=TaskOptions(idempotent=idempotent))


def follower(uid: str | None, *needed: Task, idempotent: bool = False) -> ComputeTask:
    """Return a task that gets the values of others."""
    return ComputeTask(work, args=needed, uid=uid, idempotent=idempotent)


class Unkept:
    """A value that cannot be kept."""

    def __reduce__(self) -> str:
        raise RuntimeError("only here")


class Sessions:
    """The sessions of one run, one after the other.

    Attributes:
        past: What the present session knows of those before.
        known: What it was told of the tasks that it submitted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.past: Past | None = None
        self.known: dict[Task, Recalled] = {}
        self.aftermaths: dict[int, Aftermath] = {}
        self._session = 1
        self.journal = Journal.create(folder, RUN)

    def submit(self, *tasks: Task, number: int | None = None) -> None:
        """Submit tasks; their dependencies are the tasks among their arguments, and those they come after."""
        for at, each in enumerate(tasks):
            if number is not None:
                each.number = number + at
        edges = {each: needed for each in tasks if (needed := dependencies_of(each))} or NO_EDGES
        self.known = self.past.recall(_dependencies_first(tasks, edges), edges) if self.past is not None else {}
        self.journal.accepted(tasks, 1, edges=edges, ready=not edges and not self.known)
        rows = [(each, self.known[each]) for each in tasks if each in self.known]
        _, lost = take_over(rows, {}, self.journal, 2)
        for each, known in lost:
            each.failure = known.failure
            self.journal.entered(known.state, [each], 3)
        self.journal.commit()

    def place(self, *tasks: Task) -> None:
        for each in tasks:
            each.attempt += 1
        self.journal.placed([Assignment(on_core(0), [each]) for each in tasks], 4)
        self.journal.commit()

    def start(self, *tasks: Task) -> None:
        self.place(*tasks)
        self.journal.entered(State.RUNNING, tasks, 5)
        self.journal.commit()

    def done(self, each: Task, value: object = None, stdio: Stdio | None = None) -> None:
        """Let a task end that was placed."""
        each.value, each.stdio = value, stdio
        self.journal.entered(State.DONE, [each], 6)
        self.journal.commit()

    def whole(self, values: Mapping[Any, object]) -> None:
        """Let tasks be placed, run and end together."""
        tasks = list(values)
        self.place(*tasks)
        for each, value in values.items():
            each.value = value
        self.journal.ran(tasks, [5] * len(tasks), [6] * len(tasks))
        self.journal.commit()

    def fail(self, each: Task, state: State = State.FAILED, cause: Cause = Cause.EXCEPTION) -> None:
        each.failure = Failure(cause, "it broke")
        self.journal.entered(state, [each], 6)
        self.journal.commit()

    def launch(self, each: ArrayTask, items: tuple[int, int], attempt: int) -> None:
        self.journal.placed([Assignment(on_core(0), [each], items, attempt)], 4)
        self.journal.commit()

    def items(self, state: State, each: ArrayTask, items: tuple[int, int], values: Sequence[object] = ()) -> None:
        """Let items enter a state, with their values."""
        if state is State.DONE:
            each.value = each.value or [None] * len(each)
            each.value[slice(*items)] = values
        self.journal.items_entered(state, each, items, 6, "")
        self.journal.commit()

    def die(self, *reports: Report, complete: bool = False, rerun_unknown: bool = False) -> None:
        """Let the session end, and the next one begin.

        Args:
            reports: What the backend says of attempts afterwards.
            complete: Whether it knows of all that was under way.
            rerun_unknown: As the next session is told.
        """
        self.journal.close()
        self.aftermaths[self._session] = Aftermath(reports, complete)
        self.look_back(rerun_unknown=rerun_unknown)
        assert self.past is not None
        self._session += 1
        self.journal = Journal.create(self.folder, RUN, self.past.end)

    def look_back(self, *, rerun_unknown: bool = False) -> Past:
        """Read what the sessions until now did."""
        self.past = Past(self.folder, self.aftermaths, rerun_unknown=rerun_unknown)
        return self.past

    def recalled(self, each: Task) -> tuple[State, object] | None:
        """Return what the present session was told of a task: state, and value or number of the last attempt."""
        known = self.known.get(each)
        if known is None:
            return None
        return known.state, known.value if known.state is State.DONE else known.attempt

    def items_of(self, each: ArrayTask) -> tuple[list[tuple[tuple[int, int], list[Any]]], list[tuple[int, int]]]:
        """Return what the present session was told of items: ranges with values, and ranges that may have run."""
        found = self.known[each].items
        assert isinstance(found, RecalledItems)
        return [(items, list(values)) for items, values, _ in found.done], [items for items, _ in found.unknown]


def _dependencies_first(tasks: Sequence[Task], edges: Mapping[Task, Sequence[Task]]) -> list[Task]:
    found: list[Task] = []
    while len(found) < len(tasks):
        found += [
            each
            for each in tasks
            if each not in found and all(needed in found or needed not in tasks for needed in edges.get(each, ()))
        ]
    return found
