"""Journals written by hand, event by event, in whole seconds: what happened, told in a few lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.abc import NO_EDGES, Assignment
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.resources import SERIAL, Placement, Resources, Slot
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.journal import Journal, JournalEnd
from rhapsody.telemetry.metrics import Measured, Metrics, measure
from rhapsody.telemetry.reader import JournalReader
from rhapsody.telemetry.scan import segments

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.model.task import Task

S = 1_000_000_000
T0 = 1_790_000_000 * S
"""Moment 0 of every story."""


def work(number: int = 0) -> int:
    return number


class AskingTask(ComputeTask):
    """Stands for a request to a model."""

    __slots__ = ()
    kind = "ai"


class StayingTask(ComputeTask):
    """Stands for a service."""

    __slots__ = ()
    kind = "service"


def task(resources: Resources = SERIAL, **options: str) -> ComputeTask:
    return ComputeTask(work, resources=resources, uid=options.get("uid"))


def array(length: int) -> ArrayTask:
    return ArrayTask(work, range(length))


class Story:
    """Writes a run's journal; moments are seconds since its beginning."""

    def __init__(
        self,
        folder: Path,
        *,
        cores: int = 4,
        gpus: int = 0,
        nodes: int = 1,
        **about: Any,  # noqa: ANN401 - JSON
    ) -> None:
        self.folder = folder
        shape = NodeShape(cores=cores, gpus=gpus)
        allocation = Allocation(nodes=tuple(Node(name=f"n{at}", shape=shape) for at in range(nodes)))
        self.run: dict[str, Any] = {"uid": folder.name, "allocation": allocation.model_dump(mode="json")} | about
        self.journal = Journal.create(folder, self.run)
        self._session = 1

    def resume(self) -> None:
        """Begin another session, as after a crash."""
        self.journal.close()
        reader = JournalReader(self.folder)
        for _ in reader:
            pass
        count = len(segments(self.folder / "journal"))
        self.journal = Journal.create(self.folder, self.run, JournalEnd(self._session, count, reader.index))
        self._session += 1

    def submit(self, at: float, *tasks: Task, after: dict[Task, Sequence[Task]] | None = None) -> None:
        self.journal.accepted(tasks, _ns(at), edges=after or NO_EDGES)

    def ready(self, at: float, *tasks: Task) -> None:
        self.journal.entered(State.READY, tasks, _ns(at))

    def place(self, at: float, *tasks: Task) -> None:
        """Place each task on a slot of its own; the first time is its first attempt."""
        for each in tasks:
            each.attempt += 1
        self.journal.placed([Assignment(Placement((Slot(0, (0,)),)), [each]) for each in tasks], _ns(at))

    def run_from(self, at: float, *tasks: Task) -> None:
        self.journal.entered(State.RUNNING, tasks, _ns(at))

    def done(self, at: float, *tasks: Task) -> None:
        self.journal.entered(State.DONE, tasks, _ns(at))

    def fail(self, at: float, *tasks: Task, cause: Cause = Cause.EXCEPTION, text: str = "it broke") -> None:
        for each in tasks:
            each.failure = Failure(cause, text)
        self.journal.entered(State.FAILED, tasks, _ns(at))

    def enter(self, state: State, at: float, *tasks: Task) -> None:
        self.journal.entered(state, tasks, _ns(at))

    def whole(self, submitted: float, running: float, done: float, *tasks: Task) -> None:
        """Tell the whole way of tasks that run at the same time; they are placed the moment they run."""
        self.submit(submitted, *tasks)
        self.ready(submitted, *tasks)
        self.place(running, *tasks)
        self.run_from(running, *tasks)
        self.done(done, *tasks)

    def launch(self, at: float, each: ArrayTask, items: tuple[int, int], attempt: int) -> None:
        self.journal.placed([Assignment(Placement((Slot(0, (0,)),)), [each], items, attempt)], _ns(at))

    def items(
        self, state: State, at: float, each: ArrayTask, items: tuple[int, int], attempt: int, text: str = ""
    ) -> None:
        each.attempt = attempt
        self.journal.items_entered(state, each, items, _ns(at), text)

    def measured(self) -> Measured:
        self.journal.close()
        return measure(self.folder)


def in_pieces(folder: Path) -> Measured:
    """Return a run's metrics, asked for after each piece."""
    reader = JournalReader(folder)
    metrics = Metrics(reader.uid_of)
    for found in reader:
        metrics.take(found)
        metrics.result()
    return metrics.result()


def _ns(at: float) -> int:
    return T0 + round(at * S)
