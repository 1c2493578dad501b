"""Writing the journal: the durable, ordered log of every event of a run.

Segments `journal/000001.log`, … in the run folder, one writer, only ever appended to: no locks and no mapped memory, so
that network file systems keep it whole. `rhapsody.telemetry.reader` reads it back; nothing else parses it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from rhapsody.abc import EventSink
from rhapsody.errors import JournalError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.frames import (
    MAX_EVENTS,
    SCHEMA,
    STATES_WITH_DETAIL,
    Accepted,
    AnyRecord,
    Definition,
    Entered,
    ItemsEntered,
    Placed,
    Ran,
    Run,
    encode_frame,
)
from rhapsody.telemetry.segments import SEGMENT_BYTES, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.abc import Assignment
    from rhapsody.model.outcome import Failure
    from rhapsody.model.resources import Resources
    from rhapsody.model.task import Task

MAX_DETAIL_CHARS = 2_000
MAX_LABEL_CHARS = 300

_MAX_DETAILED_EVENTS = 2_048
"""Events with a detail in one frame at most: with the longest details it still has 16 MiB at most."""


class Journal(EventSink):
    """The journal of one run, open for writing.

    Everything recorded is kept until `commit` has written it. Use from one thread; `create` makes it.
    """

    def __init__(self, segments: SegmentWriter) -> None:
        self._segments = segments
        self._frames: list[bytes] = []
        self._index = 0
        self._definitions = _Definitions()

    @classmethod
    def create(cls, folder: Path, run: dict[str, Any], *, segment_bytes: int = SEGMENT_BYTES) -> Journal:
        """Begin the journal of a run and write what run it is.

        Args:
            folder: The run folder; `journal/` is made in it.
            run: What describes the run, of what JSON can say.
            segment_bytes: Size from which on a new segment is begun.

        Raises:
            JournalError: It could not be written, or there is one already.
        """
        journal = cls(SegmentWriter(folder / "journal", segment_bytes))
        try:
            journal._append(Run(SCHEMA, json.dumps(run), 1))
            journal.commit()
        except BaseException:
            with suppress(JournalError):  # of what went wrong, the first is told
                journal._segments.close()
            raise
        return journal

    @override
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, ready: bool = False) -> None:
        """Record that tasks entered WAITING, with uid, kind, label, priority and resources; perhaps READY, too."""
        if len(tasks) > MAX_EVENTS and ready:  # one frame would tell of READY before the next tells of WAITING
            self.accepted(tasks, time_ns)
            self.entered(State.READY, tasks, time_ns)
            return
        for start in range(0, len(tasks), MAX_EVENTS):
            batch = tasks[start : start + MAX_EVENTS]
            runs = self._definitions.runs(batch)
            self._append(
                Accepted(
                    count=len(batch),
                    time_ns=time_ns,
                    numbers=_columns(batch)[0],
                    first_definition=self._definitions.first_fresh,
                    definitions=self._definitions.fresh,
                    runs=runs,
                    uids=[(at, uid) for at, task in enumerate(batch) if (uid := task.given_uid) is not None],
                    lengths=[(at, len(task)) for at, _ in runs if isinstance(task := batch[at], ArrayTask)],
                    ready=ready,
                )
            )
            self._definitions.written()

    @override
    def entered(self, state: State, tasks: Sequence[Task], times_ns: int | Sequence[int]) -> None:
        """Record that tasks entered a state, those that did not end well with `cause: message` of their failure.

        Args:
            state: What they entered; READY also says that an attempt was given back.
            tasks: In the order of the events.
            times_ns: One time for all, or one for each.
        """
        with_detail = state in STATES_WITH_DETAIL
        step = _MAX_DETAILED_EVENTS if with_detail else MAX_EVENTS
        for start in range(0, len(tasks), step):
            batch = tasks[start : start + step]
            numbers, attempts = _columns(batch)
            self._append(
                Entered(
                    count=len(batch),
                    state=state,
                    numbers=numbers,
                    attempts=attempts,
                    times_ns=times_ns if isinstance(times_ns, int) else list(times_ns[start : start + step]),
                    details=[_detail(task.failure) for task in batch] if with_detail else [],
                )
            )

    @override
    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        """Record that tasks entered RUNNING, then that they entered DONE."""
        if 0 < len(tasks) <= MAX_EVENTS:
            numbers, attempts = _columns(tasks)
            self._append(Ran(len(tasks), numbers, attempts, list(started_ns), list(ended_ns)))
        else:  # one frame would tell of DONE before the next tells of RUNNING
            self.entered(State.RUNNING, tasks, started_ns)
            self.entered(State.DONE, tasks, ended_ns)

    @override
    def placed(self, assignments: Sequence[Assignment], time_ns: int) -> None:
        """Record that the tasks of assignments entered PLACED, with their slots."""
        if not assignments:
            return  # and there is nothing to transpose
        placements, groups, ranges, launches = zip(*assignments, strict=True)
        batch: list[Task] = list(chain.from_iterable(groups))
        slots = [placement.slots for placement in placements]
        sizes = list(map(len, groups))
        if len(batch) > MAX_EVENTS or (len(slots) > 1 and sum(map(len, slots)) > MAX_EVENTS):
            for half in _halves(assignments):
                self.placed(half, time_ns)
            return
        numbers, attempts = _columns(batch)
        self._append(
            Placed(
                count=len(batch),
                time_ns=time_ns,
                numbers=numbers,
                attempts=_launched(assignments) if any(launches) else attempts,
                slots=slots,
                sizes=[] if sizes.count(1) == len(sizes) else sizes,
                ranges=[] if ranges.count(None) == len(ranges) else list(ranges),
            )
        )

    @override
    def items_entered(self, state: State, task: ArrayTask, items: tuple[int, int], time_ns: int, detail: str) -> None:
        """Record that a half-open range of an array task's items entered a state."""
        self._append(ItemsEntered(state, time_ns, task.number, task.attempt, items, _plain(detail, MAX_DETAIL_CHARS)))

    @override
    def commit(self) -> None:
        """Write everything recorded so far, so that a killed process loses none of it; 100 ms later nor does a node.

        Raises:
            JournalError: It could not be written, or an earlier fsync failed. What was not written is kept: call again
                when there is room.
        """
        self._segments.write(self._frames)

    def close(self) -> None:
        """Commit, bring everything to disk and close; the second call does nothing.

        The file is closed and the thread ended even after an error.

        Raises:
            JournalError: Not everything could be written or brought to disk.
        """
        if self._segments.closed:
            return
        try:
            self.commit()
        finally:
            self._segments.close()

    def _append(self, record: AnyRecord) -> None:
        self._frames.append(encode_frame(self._index, record))
        self._index += 1


class NullJournal(EventSink):
    """Stands for the journal when none is wanted: records nothing."""

    @override
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, ready: bool = False) -> None:
        """Do nothing."""

    @override
    def entered(self, state: State, tasks: Sequence[Task], times_ns: int | Sequence[int]) -> None:
        """Do nothing."""

    @override
    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        """Do nothing."""

    @override
    def placed(self, assignments: Sequence[Assignment], time_ns: int) -> None:
        """Do nothing."""

    @override
    def items_entered(self, state: State, task: ArrayTask, items: tuple[int, int], time_ns: int, detail: str) -> None:
        """Do nothing."""

    @override
    def commit(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class _Definitions:
    """Gives ids to what tasks have in common, and remembers which of them are not written yet."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str, int, Resources], int] = {}
        self.fresh: list[Definition] = []

    @property
    def first_fresh(self) -> int:
        """Id of the first one that is not written yet."""
        return len(self._ids) - len(self.fresh)

    def written(self) -> None:
        """Take note that the fresh ones are in a frame."""
        self.fresh = []

    def runs(self, batch: Sequence[Task]) -> list[tuple[int, int]]:
        """Return from which position of the batch on tasks have which id."""
        if len(self._ids) > MAX_EVENTS:  # labels without end: begin anew; the reader does so too
            self._ids.clear()
            self.fresh = []
        runs = []
        kind = function = executable = resources = priority = None
        known: dict[tuple[type[Task], int, str | None, int, int], int] = {}
        for at, task in enumerate(batch):
            if (
                type(task) is ComputeTask
                and kind is ComputeTask
                and task.function is function
                and task.resources is resources
                and task.priority == priority
                and task.executable == executable
            ):
                continue
            kind, function = type(task), getattr(task, "function", None)
            executable = getattr(task, "executable", None)
            resources, priority = task.resources, task.priority
            # ids are those of other objects once the tasks are gone: so they are known for this batch only
            key = (kind, id(function), executable, id(resources), priority)
            if key not in known:
                known[key] = self._id_of(task)
            runs.append((at, known[key]))
        return runs

    def _id_of(self, task: Task) -> int:
        label = _plain(getattr(task, "label", task.kind), MAX_LABEL_CHARS)
        key = (task.kind, label, task.priority, task.resources)
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            self.fresh.append(Definition.of(task.kind, label, task.priority, task.resources))
        return self._ids[key]


def _columns(batch: Sequence[Task]) -> tuple[int | list[int], int | list[int]]:
    """Return the numbers and the attempts of tasks, or the first of each where the rest follows from it."""
    number, attempt = batch[0].number, batch[0].attempt
    if batch[-1].number - number == len(batch) - 1:
        for expected, task in enumerate(batch, number):
            if task.number != expected or task.attempt != attempt:
                break
        else:
            return number, attempt
    attempts = [task.attempt for task in batch]
    is_same = attempts.count(attempt) == len(attempts)
    return [task.number for task in batch], attempt if is_same else attempts


def _launched(assignments: Sequence[Assignment]) -> list[int]:
    """Return the attempts where some are numbered by launch."""
    return [launch or task.attempt for _, tasks, _, launch in assignments for task in tasks]


def _detail(failure: Failure | None) -> str:
    return "" if failure is None else _plain(f"{failure.cause}: {failure.message}", MAX_DETAIL_CHARS)


def _plain(text: str, most: int) -> str:
    """Return the text cut to so many characters, with what UTF-8 cannot say written out."""
    return text[:most].encode(errors="backslashreplace").decode()


def _halves(assignments: Sequence[Assignment]) -> tuple[Sequence[Assignment], Sequence[Assignment]]:
    """Return the first and the second half, of a single assignment those of its tasks."""
    if len(assignments) > 1:
        middle = len(assignments) // 2
        return assignments[:middle], assignments[middle:]
    only = assignments[0]
    middle = len(only.tasks) // 2
    return [only._replace(tasks=only.tasks[:middle])], [only._replace(tasks=only.tasks[middle:])]
