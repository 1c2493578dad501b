"""Reading the journal back, frame by frame: memory does not grow with the events.

A frame that breaks off at the very end is what a crash leaves: reading ends there, and `on_tail` is told. Damage
anywhere else raises a `JournalError`, unless somebody asked to be told of it instead. The events of a damaged frame are
never given out.

`JournalReader` gives whole columns, for folds over millions of events; `read_events` gives them one by one.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rhapsody.errors import JournalError
from rhapsody.model.event import Event, State
from rhapsody.model.task import Task, derived_uid
from rhapsody.telemetry.frames import (
    SCHEMA,
    Accepted,
    AnyRecord,
    Definition,
    Entered,
    ItemsEntered,
    Kept,
    Placed,
    Ran,
    Restored,
    Run,
    decode_record,
)
from rhapsody.telemetry.scan import JournalTail, Scan, located

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from rhapsody.model.resources import Resources
    from rhapsody.telemetry.frames import Range, SlotRow

__all__ = [
    "Changes",
    "JournalReader",
    "JournalTail",
    "Newcomers",
    "Opened",
    "TaskRecord",
    "read_events",
    "read_run",
    "read_tasks",
    "without",
]

T = TypeVar("T")

_USUAL_KIND = Task.kind
"""Of nearly all tasks: uids of this kind that the user did not give follow from the number, so none is remembered."""


class Opened(NamedTuple):
    """A session of the run began; task numbers count anew.

    Attributes:
        session: 1, then one more each time that the run was resumed.
        run: What the session was described with.
    """

    session: int
    run: dict[str, Any]


class Group(NamedTuple):
    """Accepted tasks, one after the other, that have all this in common.

    Attributes:
        start: Position of the first in `Newcomers.numbers`.
        stop: Position behind the last.
        kind: `task`, `map`, …
        label: What runs, for people; at most 300 characters.
        priority: The tasks' own.
        resources: What each asks for, or each item of an array task does.
        code: Fingerprint of what they run; empty when there is none.
    """

    start: int
    stop: int
    kind: str
    label: str
    priority: int
    resources: Resources
    code: bytes


class Newcomers(NamedTuple):
    """Tasks that were accepted; the `Changes` to WAITING follow.

    Attributes:
        time_ns: When.
        numbers: Of the tasks, unique in the session.
        groups: Cover all of them.
        lengths: Items of array tasks, by number.
        uids: Uids that users gave, by number.
        dependencies: Numbers of the tasks that a task depends on, by number; without those that depend on none.
    """

    time_ns: int
    numbers: Sequence[int]
    groups: Sequence[Group]
    lengths: dict[int, int]
    uids: dict[int, str]
    dependencies: dict[int, list[int]]


@dataclass(slots=True)
class Changes:
    """Tasks that entered one state; all but `size`, `state` and `restored` have a value for each, or go on for ever.

    Attributes:
        size: How many.
        state: What they entered.
        numbers: Of the tasks.
        times: Nanoseconds since the epoch.
        attempts: Number of the attempt; 0 before the first.
        ranges: Half-open range of an array task's items, or None.
        slots: For PLACED, `(node, cores, gpus)` of each rank; else empty.
        details: For FAILED, CANCELED and UNKNOWN, why; else empty.
        restored: They were DONE in an earlier session, and did not run in this one.
        places: Frame of kept results that holds what they left, and the position in it; or None.
    """

    size: int
    state: State
    numbers: Sequence[int]
    times: Iterable[int]
    attempts: Iterable[int]
    ranges: Iterable[Range | None] = repeat(None)
    slots: Iterable[tuple[SlotRow, ...]] = repeat(())
    details: Iterable[str] = repeat("")
    restored: bool = False
    places: Iterable[tuple[int, int] | None] = repeat(None)


def without(changes: Changes, numbers: AbstractSet[int]) -> Changes:
    """Return the changes but for those of some tasks."""
    columns = (changes.times, changes.attempts, changes.ranges, changes.slots, changes.details, changes.places)
    rows = [row for row in zip(changes.numbers, *columns, strict=False) if row[0] not in numbers]  # some go on for ever
    left, *others = map(list, zip(*rows, strict=True)) if rows else ([] for _ in range(7))
    times, attempts, ranges, slots, details, places = others
    restored = changes.restored
    return Changes(len(left), changes.state, left, times, attempts, ranges, slots, details, restored, places)


class TaskRecord(NamedTuple):
    """What the journal knows of a task besides its events.

    Attributes:
        number: Unique in the run.
        uid: As in the events.
        kind: `task`, `map`, …
        label: What runs, for people; at most 300 characters.
        priority: The task's own.
        resources: What it asks for, or each item of an array task does.
        item_count: Items of an array task; else None.
    """

    number: int
    uid: str
    kind: str
    label: str
    priority: int
    resources: Resources
    item_count: int | None


class JournalReader:
    """Reads a run's journal in columns. Iterate again to get what was written since.

    Args:
        folder: The run folder.
        on_damage: Called with damage other than at the end; reading goes on behind it. None: an error is raised there.
    """

    def __init__(self, folder: Path, on_damage: Callable[[JournalTail], object] | None = None) -> None:
        self._scan = Scan(folder / "journal", on_damage=on_damage)
        self._on_damage = on_damage
        self._catalog = _Catalog()
        self._session = 0

    @property
    def tail(self) -> JournalTail | None:
        """Where the journal broke off at the last look: a frame that is being written, or what a crash left."""
        return self._scan.tail

    @property
    def index(self) -> int:
        """Index of the next frame."""
        return self._scan.index

    def __iter__(self) -> Iterator[Opened | Newcomers | Changes]:
        """Yield what is there, in the order in which it was recorded.

        Raises:
            JournalError: There is no journal, or it is damaged; the text names file and offset.
        """
        for path, offset, record in self.records():
            if isinstance(record, Run):
                with located(path, offset):
                    yield Opened(record.session, json.loads(record.run))
                continue
            if isinstance(record, Accepted):
                yield self.newcomers(record)
            yield from _columns(record)

    def newcomers(self, record: Accepted) -> Newcomers:
        """Return the tasks of the record that was read last."""
        return self._catalog.newcomers(record)

    def uid_of(self, number: int) -> str:
        """Return the uid of a task of the session that was read last."""
        return self._catalog.uids.get(number) or derived_uid(_USUAL_KIND, number)

    def records(self) -> Generator[tuple[Path, int, AnyRecord], None, None]:
        """Yield each record with the place of its frame; errors as for the iteration."""
        for path, frame in self._scan:
            try:
                with located(path, frame.offset):
                    record = self._checked(decode_record(frame.payload), frame.index)
            except JournalError as exc:
                if self._on_damage is None:
                    raise
                self._on_damage(JournalTail(path.name, frame.offset, str(exc.__cause__)))
                continue
            yield path, frame.offset, record

    def _checked(self, record: AnyRecord, index: int) -> AnyRecord:
        if isinstance(record, Run):
            if record.schema != SCHEMA:
                raise ValueError(f"it is of schema {record.schema}, this version reads schema {SCHEMA}")
            if record.session <= self._session:
                raise ValueError(f"session {record.session} of the run follows session {self._session}")
            self._session = record.session
            self._catalog = _Catalog()
        elif index == 0:
            raise ValueError("the record of the run stands first, and only there")
        elif isinstance(record, Kept):
            raise ValueError("kept results are not in the journal")
        elif isinstance(record, Accepted):
            self._catalog.learn(record)
        return record


def read_run(folder: Path) -> dict[str, Any]:
    """Return what the run was described with when its journal was begun.

    Args:
        folder: The run folder.

    Raises:
        JournalError: There is no journal, or its beginning is damaged.
    """
    with closing(JournalReader(folder).records()) as records:
        for path, offset, record in records:
            if isinstance(record, Run):
                with located(path, offset):
                    return dict(json.loads(record.run))
    raise JournalError(f"the journal of {folder} breaks off before it says what run it is")


def read_events(folder: Path, on_tail: Callable[[JournalTail], object] | None = None) -> Iterator[Event]:
    """Yield all events of a run in the order in which they were recorded.

    Args:
        folder: The run folder.
        on_tail: Called at the end when the journal breaks off there.

    Raises:
        JournalError: There is no journal, or it is damaged elsewhere than at its end; the text names file and offset.
    """
    reader = JournalReader(folder)
    seq = 0
    for found in reader:
        if isinstance(found, Changes):
            named = [reader.uid_of(number) for number in found.numbers]
            numbered, states = range(seq, seq + found.size), repeat(found.state)
            columns = (found.attempts, states, found.ranges, found.slots, found.details)
            yield from map(Event, numbered, found.times, named, *columns)
            seq += found.size
    if reader.tail is not None and on_tail is not None:
        on_tail(reader.tail)


def read_tasks(folder: Path, on_tail: Callable[[JournalTail], object] | None = None) -> Iterator[TaskRecord]:
    """Yield all tasks of a run in the order in which they were accepted; arguments and errors as for `read_events`."""
    reader = JournalReader(folder)
    for found in reader:
        if isinstance(found, Newcomers):
            for start, stop, kind, label, priority, resources, _ in found.groups:
                for number in found.numbers[start:stop]:
                    common = (kind, label, priority, resources)
                    yield TaskRecord(number, reader.uid_of(number), *common, found.lengths.get(number))
    if reader.tail is not None and on_tail is not None:
        on_tail(reader.tail)


class _Catalog:
    """What accepted tasks have in common, by id, and the uids that do not follow from a usual task's number."""

    def __init__(self) -> None:
        self.uids: dict[int, str] = {}
        self._definitions: dict[int, tuple[Definition, Resources]] = {}

    def learn(self, record: Accepted) -> None:
        """Take definitions and uids from a record.

        Raises:
            ValueError: It refers to a definition that does not exist, or one makes no sense.
        """
        for which, definition in enumerate(record.definitions, record.first_definition):
            self._definitions[which] = definition, definition.resources()
        numbers = expand(record.numbers, record.count)
        for start, stop, which in _stretches(record):
            if which not in self._definitions:
                raise ValueError(f"definition {which} is not there")
            kind = self._definitions[which][0].kind
            if kind != _USUAL_KIND:
                self.uids.update((number, derived_uid(kind, number)) for number in numbers[start:stop])
        for at, uid in record.uids:
            self.uids[numbers[at]] = uid

    def newcomers(self, record: Accepted) -> Newcomers:
        """Return the tasks of a record that was learned."""
        numbers = expand(record.numbers, record.count)
        groups = []
        for start, stop, which in _stretches(record):
            definition, resources = self._definitions[which]
            common = (definition.kind, definition.label, definition.priority, resources, definition.code)
            groups.append(Group(start, stop, *common))
        lengths = {numbers[at]: length for at, length in record.lengths}
        uids = {numbers[at]: uid for at, uid in record.uids}
        dependencies = {numbers[at]: on for at, on in record.dependencies}
        return Newcomers(record.time_ns, numbers, groups, lengths, uids, dependencies)


def _columns(record: AnyRecord) -> tuple[Changes, ...]:  # noqa: PLR0911 - one for each kind of record
    match record:
        case Accepted():
            numbers = expand(record.numbers, record.count)
            states = (State.WAITING, State.READY) if record.ready else (State.WAITING,)
            return tuple(Changes(record.count, state, numbers, repeat(record.time_ns), repeat(0)) for state in states)
        case Entered():
            numbers = expand(record.numbers, record.count)
            times, attempts = each(record.times_ns), each(record.attempts)
            details = record.details or repeat("")
            places = _places(record.kept, record.count)
            return (Changes(record.count, record.state, numbers, times, attempts, details=details, places=places),)
        case Ran():
            numbers, attempts = expand(record.numbers, record.count), each(record.attempts)
            return (
                Changes(record.count, State.RUNNING, numbers, record.started_ns, attempts),
                Changes(
                    record.count,
                    State.DONE,
                    numbers,
                    record.ended_ns,
                    attempts,
                    places=_places(record.kept, record.count),
                ),
            )
        case Placed():
            numbers = expand(record.numbers, record.count)
            times, attempts = repeat(record.time_ns), each(record.attempts)
            slots = per_task(record.slots, record.sizes)
            ranges = per_task(record.ranges, record.sizes) if record.ranges else repeat(None)
            return (Changes(record.count, State.PLACED, numbers, times, attempts, ranges, slots),)
        case ItemsEntered():
            times, attempts = repeat(record.time_ns), repeat(record.attempt)
            numbers, ranges, details = [record.number], repeat(record.items), repeat(record.detail)
            return (Changes(1, record.state, numbers, times, attempts, ranges, details=details),)
        case Restored():
            numbers = expand(record.numbers, record.count)
            times, attempts = repeat(record.time_ns), each(record.attempts)
            ranges = record.ranges or repeat(None)
            places = zip(each(record.kept), each(record.positions), strict=False)
            return (Changes(record.count, State.DONE, numbers, times, attempts, ranges, restored=True, places=places),)
    return ()


def expand(numbers: int | list[int], count: int) -> Sequence[int]:
    """Return the numbers where consecutive ones may be given by the first."""
    return range(numbers, numbers + count) if isinstance(numbers, int) else numbers


def each(column: int | list[int]) -> Iterable[int]:
    """Return the values where equal ones may be given once."""
    return repeat(column) if isinstance(column, int) else column


def _places(kept: int, count: int) -> Iterable[tuple[int, int] | None]:
    return zip(repeat(kept), range(count), strict=False) if kept else repeat(None)


def per_task(groups: Iterable[T], sizes: list[int]) -> Iterable[T]:
    """Return what each group has, once for each of its tasks; without sizes all groups have one."""
    return chain.from_iterable(map(repeat, groups, sizes)) if sizes else groups


def _stretches(record: Accepted) -> Iterator[tuple[int, int, int]]:
    """Yield start, stop and definition id of the runs of like tasks."""
    for (start, which), (stop, _) in pairwise([*record.runs, (record.count, 0)]):
        yield start, stop, which
