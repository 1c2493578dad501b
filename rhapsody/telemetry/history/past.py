"""What the earlier sessions of a run did: read from the journal once, then asked by each submission."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from rhapsody.abc import Aftermath, History, Recalled, RecalledItems
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.fingerprint import Codes
from rhapsody.model.outcome import Cause, Completed, Failure, Stdio
from rhapsody.model.service import ReplicaTask
from rhapsody.model.task import ComputeTask
from rhapsody.telemetry.definitions import inputs_column, inputs_in, label_of
from rhapsody.telemetry.history.item_log import DONE, LOST
from rhapsody.telemetry.history.recollection import Recollection
from rhapsody.telemetry.history.register import NOBODY, key_of
from rhapsody.telemetry.journal import JournalEnd
from rhapsody.telemetry.results import KeptReader, Left, Place, ValueMissing
from rhapsody.telemetry.scan import segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rhapsody.abc import Edges
    from rhapsody.model.task import Task
    from rhapsody.telemetry.history.item_log import Stretch
    from rhapsody.telemetry.scan import JournalTail


_NO_VALUES: list[Any] = []
_MAY_BE_MISSING = "nobody knows whether it ran: the journal of this run is damaged, where it may have stood"


@dataclass
class Tally:
    """How the tasks of a resumed session compare with those of the sessions before.

    Attributes:
        restored: Did not run again.
        repeated: Were under way when a session ended, are idempotent, and ran again.
        unknown: Were under way and are not idempotent.
        changed: Have other code or inputs than before: uids, or what runs for those without.
        unreadable: Uid and reason of those whose value was not kept.
    """

    restored: int = 0
    repeated: int = 0
    unknown: int = 0
    changed: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


class Past(History):
    """The earlier sessions of a run.

    Args:
        folder: The run folder.
        aftermaths: What the backend knows of each session beyond the journal, by number of the session.
        rerun_unknown: Run again what may have run.

    Attributes:
        damages: Where the journal and the kept results are damaged; found so far.
        tally: What came of the tasks that were recalled; counted on.

    Raises:
        JournalError: There is no journal, a segment is missing, or one cannot be read.
    """

    def __init__(self, folder: Path, aftermaths: Mapping[int, Aftermath], *, rerun_unknown: bool = False) -> None:
        self._folder = folder
        self._aftermaths = aftermaths
        self._rerun_unknown = rerun_unknown
        self.damages: list[JournalTail] = []
        self.tally = Tally()
        self._codes = Codes()
        self._kept = KeptReader(folder, self.damages.append)
        recollection = Recollection(folder, aftermaths, self.damages)
        self._session, self._frames = recollection.session, recollection.frames
        self._kept_frames = max(self._kept.index, recollection.kept)
        self._register = recollection.register
        self._salvaged = recollection.salvaged
        self.tail: JournalTail | None = recollection.tail
        self._salvaged_items = recollection.salvaged_items
        self._restored = bytearray(len(self._register))
        """By row, whether its task was restored in this session."""
        self._missing, self._is_cut = recollection.missing, recollection.is_cut
        self._register.begin_session()

    @property
    def end(self) -> JournalEnd:
        """Where the new session's journal begins."""
        count = len(segments(self._folder / "journal"))
        session = max(self._session, *self._aftermaths, 0)  # of the last one the journal may have nothing
        return JournalEnd(session, count, self._frames, self._kept.count, self._kept_frames)

    def __len__(self) -> int:
        return len(self._register)

    def count_done(self) -> int:
        """Return how many tasks, items of array tasks included, were done."""
        return self._register.count(DONE)

    def count_lost(self) -> int:
        """Return how many may have run, and nobody knows how they ended."""
        return self._register.count(LOST)

    def not_asked_for(self) -> Iterable[str]:
        """Return what runs in tasks that were DONE in an earlier session and were not submitted in this one."""
        return self._register.left_unclaimed()

    @override
    def recall(self, tasks: Sequence[Task], edges: Edges) -> dict[Task, Recalled]:
        """Return what is known of tasks; see `rhapsody.abc.History`."""
        found: dict[Task, Recalled] = {}
        inputs = list(inputs_in(inputs_column(tasks, edges), len(tasks)))
        for start, stop in _alike(tasks):
            if isinstance(tasks[start], ReplicaTask):
                continue  # what keeps a service knows what it needs
            group, code, label = tasks[start:stop], self._codes.of(tasks[start]), label_of(tasks[start])
            if code and not edges and type(group[0]) is ComputeTask and not any(task.given_uid for task in group):
                self._recall_unnamed(group, code, inputs[start:stop], label, found)
                continue
            for task, fingerprint in zip(group, inputs[start:stop], strict=True):
                known = self._recall(task, edges.get(task, ()), label, code, fingerprint)
                if known is not None:
                    found[task] = known
        return found

    def _recall_unnamed(
        self, tasks: Sequence[Task], code: bytes, inputs: Sequence[bytes], label: str, found: dict[Task, Recalled]
    ) -> None:
        """Recall many tasks without uids and dependencies; for those that are done and plain, at little cost."""
        register, done = self._register, State.DONE
        states, attempts, frames, positions = register.states, register.attempts, register.frames, register.positions
        keys = [code + fingerprint if fingerprint else b"" for fingerprint in inputs]
        numbers: Sequence[int] = [task.number for task in tasks]
        consecutive = range(numbers[0], numbers[0] + len(numbers))
        rows = register.claim_unnamed(consecutive if numbers == list(consecutive) else numbers, keys, label)
        last, values = 0, _NO_VALUES
        for task, row in zip(tasks, rows, strict=True):
            if row != NOBODY and states[row] == DONE and row not in self._salvaged:
                frame, position = frames[row], positions[row]
                if frame != last:
                    last, values = frame, self._kept.plain_values(frame)
                if position < len(values) or not frame:
                    value = values[position] if frame else None
                    found[task] = Recalled(done, attempts[row], value, None, None, None, (frame, position))
                    self._restored[row] = 1
                    self.tally.restored += 1
                    continue
            known = self._judge(task, row, (), label, is_changed=False)
            if known is not None:
                found[task] = known

    def _recall(
        self, task: Task, dependencies: Sequence[Task], label: str, code: bytes, inputs: bytes
    ) -> Recalled | None:
        needed = [self._register.row_of(dependency.number) for dependency in dependencies]
        key = key_of(code, inputs, needed)
        length = len(task) if isinstance(task, ArrayTask) else None
        row, is_changed = self._register.claim(task.number, task.given_uid, key, label, length)
        return self._judge(task, row, needed, label, is_changed=is_changed)

    def _judge(self, task: Task, row: int, needed: Sequence[int], label: str, *, is_changed: bool) -> Recalled | None:
        """Return what follows for a task from what its row says."""
        register = self._register
        if row == NOBODY:
            if is_changed or (task.given_uid is None and register.unclaimed[label] > 0):
                self.tally.changed.append(task.given_uid or label)
            return self._if_it_may_be_missing(task)
        if isinstance(task, ArrayTask):
            return self._recall_items(task, row, needed)
        state = register.states[row]
        if state == DONE:
            if self._is_current(row, needed):
                return self._restore(task, row)
            self.tally.changed.append(task.given_uid or label)
        if state == LOST:
            return self._recall_lost(task, register.attempts[row])
        return Recalled(State.READY, register.attempts[row]) if register.attempts[row] else None

    def _is_current(self, row: int, needed: Sequence[int]) -> bool:
        """Return whether what a task depends on is restored, and did not run again since the task did."""
        made = self._register.made
        return all(each != NOBODY and self._restored[each] and made[each] <= made[row] for each in needed)

    def _restore(self, task: Task, row: int) -> Recalled:
        """Return a task that was done, with its value."""
        attempt, report = self._register.attempts[row], self._salvaged.get(row)
        if report is not None:
            known = Recalled(State.DONE, attempt, report.value, report.stdio)
        else:
            place = Place(self._register.frames[row], self._register.positions[row])
            try:
                value, stdio = _taken_apart(self._kept.read(place))
            except ValueMissing as exc:
                return self._recall_unreadable(task, attempt, str(exc))
            known = Recalled(State.DONE, attempt, value, stdio, place=place)
        self._restored[row] = 1
        self.tally.restored += 1
        return known

    def _recall_unreadable(self, task: Task, attempt: int, reason: str) -> Recalled:
        self.tally.unreadable.append((task.uid, reason))
        if task.options.idempotent or self._rerun_unknown:
            return Recalled(State.READY, attempt)
        text = f"it was DONE in an earlier session of this run, but {reason}; with idempotent=True it would run again"
        return Recalled(State.FAILED, attempt, failure=Failure(Cause.RESULT, text))

    def _recall_lost(self, task: Task, attempt: int) -> Recalled:
        if task.options.idempotent or self._rerun_unknown:
            self.tally.repeated += 1
            return Recalled(State.READY, attempt)
        self.tally.unknown += 1
        failure = _lost(f"attempt {attempt}") if attempt else Failure(Cause.LOST, _MAY_BE_MISSING)
        return Recalled(State.UNKNOWN, attempt, failure=failure)

    def _recall_items(self, task: ArrayTask, row: int, needed: Sequence[int]) -> Recalled:
        """Return what is known of an array task's items."""
        log, attempt = self._register.items[row], self._register.attempts[row]
        done: list[tuple[tuple[int, int], Sequence[Any], tuple[int, int] | None]] = []
        unknown: list[tuple[tuple[int, int], Failure]] = []
        again = task.options.idempotent or self._rerun_unknown
        for stretch in log.stretches() if self._is_current(row, needed) else []:
            items = stretch.start, stretch.stop
            try:
                values, place = self._values_of(stretch)
            except ValueMissing as exc:
                self.tally.unreadable.append((task.uid, str(exc)))
                if not again:
                    text = f"it was DONE in an earlier session of this run, but {exc}"
                    unknown.append((items, Failure(Cause.RESULT, text)))
                continue
            done.append((items, values, place))
            self.tally.restored += stretch.stop - stretch.start
        for items in log.lost():
            if again:
                self.tally.repeated += items[1] - items[0]
            else:
                self.tally.unknown += items[1] - items[0]
                unknown.append((items, _lost("it")))
        self._restored[row] = sum(items[1] - items[0] for items, _, _ in done) == len(task)
        return Recalled(State.READY, attempt, items=RecalledItems(done, unknown))

    def _values_of(self, stretch: Stretch) -> tuple[Sequence[Any], tuple[int, int] | None]:
        count = stretch.stop - stretch.start
        if stretch.frame == 0:
            return [None] * count, Place(0, 0)
        if stretch.frame < 0:
            return self._salvaged_items[-stretch.frame - 1][stretch.offset : stretch.offset + count], None
        values = self._kept.read(Place(stretch.frame, 0))[stretch.offset : stretch.offset + count]
        if len(values) < count:
            raise ValueMissing("its kept value is not where the journal says")
        return values, Place(stretch.frame, stretch.offset)

    def _if_it_may_be_missing(self, task: Task) -> Recalled | None:
        """Return a task UNKNOWN that may have run, but stands where the journal is damaged."""
        is_suspect = self._is_cut or task.number in self._missing
        if not is_suspect or task.options.idempotent or self._rerun_unknown:
            return None
        self.tally.unknown += 1
        return Recalled(State.UNKNOWN, failure=Failure(Cause.LOST, _MAY_BE_MISSING))


def _alike(tasks: Sequence[Task]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of tasks that run the same with the same resources."""
    start, what = 0, None
    for at, task in enumerate(tasks):
        runs: tuple[object, ...] = (
            task.kind,
            getattr(task, "function", None),
            getattr(task, "executable", None),
            task.resources,
            None if type(task) is ComputeTask else label_of(task),
        )
        if runs != what:
            if at:
                yield start, at
            start, what = at, runs
    if tasks:
        yield start, len(tasks)


def _lost(what: str) -> Failure:
    return Failure(
        Cause.LOST,
        f"{what} was under way when an earlier session of this run ended, and nobody saw how it went on; see what it"
        " did, then let it run again with --rerun-unknown, or make it idempotent=True",
    )


def _taken_apart(kept: Any) -> tuple[Any, Stdio | None]:  # noqa: ANN401 - the user's value
    """Return a value and what the task printed."""
    if isinstance(kept, Left):
        return kept.value(), Stdio(kept.stdout, kept.stderr, kept.exit_code)
    if isinstance(kept, Completed):
        return kept, Stdio(kept.stdout, kept.stderr, kept.exit_code)
    return kept, None
