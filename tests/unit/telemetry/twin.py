"""A journal beside a list of the events that must be read back from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.abc import Assignment
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import Event, State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.resources import Placement, Slot
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import frames, segments
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.reader import read_events

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.model.task import Task

DETAILED = (State.FAILED, State.CANCELED, State.UNKNOWN)
RUN = {"uid": "run-1", "clock": {"offset_ns": 7}}


def noop() -> None:
    """Do nothing."""


def square(number: int) -> int:
    return number * number


def on_core(*cores: int, node: int = 0) -> Placement:
    return Placement((Slot(node, cores),))


class Twin:
    """A journal beside a list of the events that must be read back from it."""

    def __init__(self, folder: Path, *, segment_bytes: int = segments.SEGMENT_BYTES) -> None:
        self.folder = folder
        self.journal = Journal.create(folder, RUN, segment_bytes=segment_bytes)
        self.expected: list[Event] = []

    def accepted(self, tasks: Sequence[Task], time_ns: int, *, ready: bool = False) -> None:
        self.journal.accepted(tasks, time_ns, ready=ready)
        for state in (State.WAITING, State.READY) if ready else (State.WAITING,):
            for task in tasks:
                self._expect(time_ns, task.uid, 0, state)

    def entered(self, state: State, tasks: Sequence[Task], times_ns: int | Sequence[int]) -> None:
        self.journal.entered(state, tasks, times_ns)
        for at, task in enumerate(tasks):
            failure = task.failure if state in DETAILED else None
            detail = f"{failure.cause}: {failure.message}"[:2_000] if failure else ""
            time_ns = times_ns if isinstance(times_ns, int) else times_ns[at]
            self._expect(time_ns, task.uid, task.attempt, state, detail=detail)

    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        self.journal.ran(tasks, started_ns, ended_ns)
        for state, times_ns in ((State.RUNNING, started_ns), (State.DONE, ended_ns)):
            for at, task in enumerate(tasks):
                self._expect(times_ns[at], task.uid, task.attempt, state)

    def placed(self, assignments: Sequence[Assignment], time_ns: int) -> None:
        self.journal.placed(assignments, time_ns)
        for assignment in assignments:
            slots = tuple(map(tuple, assignment.placement.slots))
            for task in assignment.tasks:
                attempt = assignment.attempt or task.attempt
                self._expect(time_ns, task.uid, attempt, State.PLACED, items=assignment.items, slots=slots)

    def items_entered(self, state: State, task: ArrayTask, items: tuple[int, int], time_ns: int, detail: str) -> None:
        self.journal.items_entered(state, task, items, time_ns, detail)
        self._expect(time_ns, task.uid, task.attempt, state, items=items, detail=detail)

    def read_back(self) -> list[Event]:
        return list(read_events(self.folder))

    def _expect(self, time_ns: int, uid: str, attempt: int, state: State, **rest: Any) -> None:  # noqa: ANN401 - fields
        self.expected.append(Event(len(self.expected), time_ns, uid, attempt, state, **rest))


def a_small_run(folder: Path) -> Twin:
    """Return a closed journal with every kind of record."""
    twin = Twin(folder)
    tasks = [ComputeTask(noop), ComputeTask(noop, uid="mine"), ComputeTask(noop)]
    items = ArrayTask(square, range(9))
    twin.accepted([*tasks, items], 1)
    twin.entered(State.READY, tasks, 2)
    for task in tasks:
        task.attempt = 1
    twin.placed([Assignment(on_core(3, 4), tasks[:2]), Assignment(on_core(0, node=2), tasks[2:])], 3)
    twin.entered(State.RUNNING, tasks, [4, 5, 6])
    twin.items_entered(State.DONE, items, (0, 9), 7, "")
    twin.ran(tasks[1:], [8, 9], [10, 11])
    tasks[0].failure = Failure(Cause.SIGNAL, "ended by SIGSEGV")
    twin.entered(State.FAILED, tasks[:1], 8)
    twin.journal.close()
    return twin


def only_segment(folder: Path) -> Path:
    (path,) = (folder / "journal").glob("*.log")
    return path


def offsets_of(path: Path) -> list[int]:
    """Return where the frames begin."""
    with path.open("rb") as file:
        found: list[int] = []
        while isinstance(frame := frames.read_any_frame(file), frames.Frame):
            found.append(frame.offset)
    return found
