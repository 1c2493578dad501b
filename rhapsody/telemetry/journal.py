"""Writing the journal: the durable, ordered log of every event of a run.

Segments `journal/000001.log`, … in the run folder, one writer, only ever appended to: no locks and no mapped memory, so
that network file systems keep it whole. `rhapsody.telemetry.reader` reads it back; nothing else parses it.
"""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from rhapsody.abc import NO_EDGES, EventSink
from rhapsody.errors import JournalError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.telemetry.definitions import Definitions, inputs_column, plain_text
from rhapsody.telemetry.frames import (
    MAX_EVENTS,
    SCHEMA,
    STATES_WITH_DETAIL,
    Accepted,
    AnyRecord,
    Entered,
    ItemsEntered,
    Placed,
    Ran,
    Restored,
    Run,
    encode_frame,
)
from rhapsody.telemetry.mark import Extent, Mark
from rhapsody.telemetry.results import KeptResults, OversizeError
from rhapsody.telemetry.segments import SEGMENT_BYTES, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rhapsody.abc import Assignment, Edges, Recalled
    from rhapsody.model.outcome import Failure
    from rhapsody.model.task import Task

MAX_DETAIL_CHARS = 2_000
_STATES_WITH_RESULT = frozenset({State.DONE, State.FAILED})

_MAX_DETAILED_EVENTS = 2_048
"""Events with a detail in one frame at most: with the longest details it still has 16 MiB at most."""


@dataclass(frozen=True, slots=True)
class JournalEnd:
    """Where the earlier sessions of a run end.

    Attributes:
        session: The last one; 0 when there is none.
        segments: Of the journal.
        frames: That count; the next one has this index.
        kept_segments: Of kept results.
        kept_frames: Of these.
    """

    session: int = 0
    segments: int = 0
    frames: int = 0
    kept_segments: int = 0
    kept_frames: int = 0


class Journal(EventSink):
    """The journal of one run, open for writing.

    Everything recorded is kept until `commit` has written it. Use from one thread; `create` makes it.
    """

    def __init__(self, segments: SegmentWriter, results: KeptResults, mark: Mark, index: int = 0) -> None:
        self._segments = segments
        self._results = results
        self._mark = mark
        self._frames: list[bytes] = []
        self._index = index
        self._highest = 0
        self._definitions = Definitions()
        self._fenced = ""

    @classmethod
    def create(
        cls, folder: Path, run: dict[str, Any], after: JournalEnd | None = None, *, segment_bytes: int = SEGMENT_BYTES
    ) -> Journal:
        """Begin the journal of a session and write what session it is.

        Args:
            folder: The run folder; `journal/` is made in it.
            run: What describes the session, of what JSON can say.
            after: Where the earlier sessions of the run end, if there are any: what older segments hold from there on
                does not count.
            segment_bytes: Size from which on a new segment is begun.

        Raises:
            JournalError: It could not be written, or there is one already.
        """
        after = after or JournalEnd()
        results = KeptResults(folder, count=after.kept_segments, index=after.kept_frames, segment_bytes=segment_bytes)
        segments = SegmentWriter(folder / "journal", segment_bytes, count=after.segments)
        try:
            journal = cls(segments, results, Mark(folder / "journal"), after.frames)
            journal._append(Run(SCHEMA, json.dumps(run), after.session + 1))
            journal.commit()
        except BaseException:  # whatever it is: the file and its thread may not stay open
            with suppress(JournalError):  # of what went wrong, the first is told
                segments.close()
            raise
        return journal

    @override
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, edges: Edges = NO_EDGES, ready: bool = False) -> None:
        """Record that tasks entered WAITING, with uid, kind, label, priority, resources and fingerprints."""
        if len(tasks) > MAX_EVENTS and ready:  # one frame would tell of READY before the next tells of WAITING
            self.accepted(tasks, time_ns, edges=edges)
            self.entered(State.READY, tasks, time_ns)
            return
        for start in range(0, len(tasks), MAX_EVENTS):
            batch = tasks[start : start + MAX_EVENTS]
            runs = self._definitions.runs(batch)
            numbers = _columns(batch)[0]
            self._highest = max(self._highest, batch[-1].number if isinstance(numbers, int) else max(numbers))
            self._append(
                Accepted(
                    count=len(batch),
                    time_ns=time_ns,
                    numbers=numbers,
                    first_definition=self._definitions.first_fresh,
                    definitions=self._definitions.fresh,
                    runs=runs,
                    uids=[(at, uid) for at, task in enumerate(batch) if (uid := task.given_uid) is not None],
                    lengths=[(at, len(task)) for at, _ in runs if isinstance(task := batch[at], ArrayTask)],
                    ready=ready,
                    inputs=inputs_column(batch, edges),
                    dependencies=[
                        (at, [named.number for named in edges[task]]) for at, task in enumerate(batch) if task in edges
                    ]
                    if edges
                    else [],
                )
            )
            self._definitions.written()

    @override
    def restored(self, recalled: Sequence[tuple[Task, Recalled]], time_ns: int) -> None:
        """Record that tasks entered DONE that did so in an earlier session, with the places of their values."""
        rows: list[tuple[int, int, tuple[int, int] | None, tuple[int, int]]] = []
        for task, known in recalled:
            if known.items is None:
                rows.append((task.number, known.attempt, None, known.place or (self._results.keep([task]), 0)))
                continue
            for items, values, place in known.items.done:
                kept = place or (self._results.keep_list(list(values)), 0)
                rows.append((task.number, known.attempt, items, kept))
        for start in range(0, len(rows), MAX_EVENTS):
            numbers, attempts, ranges, places = zip(*rows[start : start + MAX_EVENTS], strict=True)
            self._append(
                Restored(
                    count=len(numbers),
                    time_ns=time_ns,
                    numbers=list(numbers),
                    attempts=list(attempts),
                    ranges=[] if ranges.count(None) == len(ranges) else list(ranges),
                    kept=[frame for frame, _ in places],
                    positions=[position for _, position in places],
                )
            )

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
            times = times_ns if isinstance(times_ns, int) else list(times_ns[start : start + step])
            try:
                kept = self._keep(batch) if state in _STATES_WITH_RESULT else 0
            except OversizeError:
                for half, moments in _halved(batch, times):
                    self.entered(state, half, moments)
                continue
            numbers, attempts = _columns(batch)
            self._append(
                Entered(
                    count=len(batch),
                    state=state,
                    numbers=numbers,
                    attempts=attempts,
                    times_ns=times,
                    details=[_detail(task.failure) for task in batch] if with_detail else [],
                    kept=kept,
                )
            )

    @override
    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        """Record that tasks entered RUNNING, then that they entered DONE."""
        kept = -1
        if 0 < len(tasks) <= MAX_EVENTS:
            with suppress(OversizeError):
                kept = self._results.keep(tasks)
        if kept >= 0:
            numbers, attempts = _columns(tasks)
            self._append(Ran(len(tasks), numbers, attempts, list(started_ns), list(ended_ns), kept))
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
        """Record that a half-open range of an array task's items entered a state, with the values of DONE ones."""
        values = task.value if state is State.DONE else None
        kept = 0 if values is None else self._results.keep_list(values[items[0] : items[1]])
        text = plain_text(detail, MAX_DETAIL_CHARS)
        self._append(ItemsEntered(state, time_ns, task.number, task.attempt, items, text, kept))

    @override
    def commit(self) -> None:
        """Write everything recorded so far, so that a killed process loses none of it; 100 ms later nor does a node.

        Raises:
            JournalError: It could not be written, or an earlier fsync failed. What was not written is kept: call again
                when there is room.
        """
        if self._fenced:
            raise JournalError(f"the journal is not written any more: {self._fenced}")
        self._results.commit()  # first: what the journal names is there
        if self._frames:
            self._segments.write(self._frames)
            self._mark.write(Extent(self._index, self._highest))
        else:
            self._segments.write(self._frames)  # it may have an error of an earlier fsync to tell

    def watch_for_errors(self, on_error: Callable[[], object]) -> None:
        """Have `on_error` called, from another thread, when what was written does not come to disk: commit then."""
        self._segments.watch_for_errors(on_error)
        self._results.watch_for_errors(on_error)

    def fence(self, reason: str) -> None:
        """Write nothing more, ever: somebody else writes the run now. What was not written is dropped at the end."""
        self._fenced = reason

    def close(self) -> None:
        """Commit, bring everything to disk and close; the second call does nothing.

        The file is closed and the thread ended even after an error.

        Raises:
            JournalError: Not everything could be written or brought to disk.
        """
        if self._segments.closed:
            return
        with ExitStack() as stack:
            stack.callback(self._mark.close)
            stack.callback(self._segments.close)
            stack.callback(self._results.close)
            if not self._fenced:
                self.commit()

    def _keep(self, batch: Sequence[Task]) -> int:
        """Keep what tasks left; the values of an array task were kept with its items."""
        return 0 if isinstance(batch[0], ArrayTask) else self._results.keep(batch)

    def _append(self, record: AnyRecord) -> None:
        self._frames.append(encode_frame(self._index, record))
        self._index += 1


class NullJournal(EventSink):
    """Stands for the journal when none is wanted: records nothing."""

    @override
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, edges: Edges = NO_EDGES, ready: bool = False) -> None:
        """Do nothing."""

    @override
    def restored(self, recalled: Sequence[tuple[Task, Recalled]], time_ns: int) -> None:
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

    def watch_for_errors(self, on_error: Callable[[], object]) -> None:
        """Do nothing."""

    def fence(self, reason: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


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
    return "" if failure is None else plain_text(f"{failure.cause}: {failure.message}", MAX_DETAIL_CHARS)


def _halved(batch: Sequence[Task], times_ns: int | list[int]) -> list[tuple[Sequence[Task], int | list[int]]]:
    """Return the first and the second half of a batch, each with its times."""
    middle = len(batch) // 2
    if isinstance(times_ns, int):
        return [(batch[:middle], times_ns), (batch[middle:], times_ns)]
    return [(batch[:middle], times_ns[:middle]), (batch[middle:], times_ns[middle:])]


def _halves(assignments: Sequence[Assignment]) -> tuple[Sequence[Assignment], Sequence[Assignment]]:
    """Return the first and the second half, of a single assignment those of its tasks."""
    if len(assignments) > 1:
        middle = len(assignments) // 2
        return assignments[:middle], assignments[middle:]
    only = assignments[0]
    middle = len(only.tasks) // 2
    return [only._replace(tasks=only.tasks[:middle])], [only._replace(tasks=only.tasks[middle:])]
