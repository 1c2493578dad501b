"""Reading the journal back, frame by frame: memory does not grow with the events.

A frame that breaks off at the very end is what a crash leaves: reading ends there, and `on_tail` is told. Damage
anywhere else raises a `JournalError`. The events of a damaged frame are never given out.
"""

from __future__ import annotations

import json
import re
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec

from rhapsody.errors import JournalError
from rhapsody.model.event import Event, State
from rhapsody.model.task import Task, derived_uid
from rhapsody.telemetry.frames import (
    SCHEMA,
    Accepted,
    AnyRecord,
    Damage,
    Definition,
    Entered,
    Frame,
    ItemsEntered,
    Placed,
    Ran,
    Run,
    decode_record,
    holds_frame,
    read_frame,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
    from pathlib import Path

    from rhapsody.model.resources import Resources
    from rhapsody.telemetry.frames import Range, SlotRow

T = TypeVar("T")

_SEGMENT_NAME = re.compile(r"\d{6,}\.log")
_USUAL_KIND = Task.kind
"""Of nearly all tasks: uids of this kind that the user did not give follow from the number, so none is remembered."""


class JournalTail(NamedTuple):
    """Where the journal breaks off.

    Attributes:
        segment: File name of the segment.
        offset: Byte in it up to which all is whole.
        reason: What is found there.
    """

    segment: str
    offset: int
    reason: str


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


def read_run(folder: Path) -> dict[str, Any]:
    """Return what the run was described with when its journal was begun.

    Args:
        folder: The run folder.

    Raises:
        JournalError: There is no journal, or its beginning is damaged.
    """
    with closing(_records(folder, None)) as records:
        for path, offset, record in records:
            if isinstance(record, Run):
                with _located(path, offset):
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
    catalog = _Catalog()
    seq = 0
    for path, offset, record in _records(folder, on_tail):
        if isinstance(record, Run):
            continue
        if isinstance(record, Accepted):
            with _located(path, offset):
                catalog.learn(record)
        for columns in _columns(record):
            yield from columns.events(seq, catalog.uids)
            seq += columns.size


def read_tasks(folder: Path, on_tail: Callable[[JournalTail], object] | None = None) -> Iterator[TaskRecord]:
    """Yield all tasks of a run in the order in which they were accepted; arguments and errors as for `read_events`."""
    catalog = _Catalog()
    for path, offset, record in _records(folder, on_tail):
        if isinstance(record, Accepted):
            catalog.uids.clear()
            with _located(path, offset):
                catalog.learn(record)
            yield from catalog.tasks(record)


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
        numbers = _expand(record.numbers, record.count)
        for start, stop, which in _stretches(record):
            if which not in self._definitions:
                raise ValueError(f"definition {which} is not there")
            kind = self._definitions[which][0].kind
            if kind != _USUAL_KIND:
                self.uids.update((number, derived_uid(kind, number)) for number in numbers[start:stop])
        for at, uid in record.uids:
            self.uids[numbers[at]] = uid

    def tasks(self, record: Accepted) -> Iterator[TaskRecord]:
        """Yield the tasks of a record that was learned."""
        numbers = _expand(record.numbers, record.count)
        lengths = dict(record.lengths)
        for start, stop, which in _stretches(record):
            definition, resources = self._definitions[which]
            common = (definition.kind, definition.label, definition.priority, resources)
            for at in range(start, stop):
                number = numbers[at]
                uid = self.uids.get(number) or derived_uid(_USUAL_KIND, number)
                yield TaskRecord(number, uid, *common, lengths.get(at))


@dataclass(slots=True)
class _Columns:
    """The events of one record; all but `size` and `state` have a value for each, or repeat one for ever."""

    size: int
    state: State
    numbers: Sequence[int]
    times: Iterable[int]
    attempts: Iterable[int]
    ranges: Iterable[Range | None] = repeat(None)
    slots: Iterable[tuple[SlotRow, ...]] = repeat(())
    details: Iterable[str] = repeat("")

    def events(self, seq: int, uids: dict[int, str]) -> Iterator[Event]:
        """Return the events, numbered from `seq`."""
        named = [uids.get(number) or derived_uid(_USUAL_KIND, number) for number in self.numbers]
        numbered = range(seq, seq + self.size)
        states = repeat(self.state)
        return map(Event, numbered, self.times, named, self.attempts, states, self.ranges, self.slots, self.details)


def _columns(record: Accepted | Entered | Placed | ItemsEntered | Ran) -> tuple[_Columns, ...]:
    match record:
        case Accepted():
            numbers = _expand(record.numbers, record.count)
            states = (State.WAITING, State.READY) if record.ready else (State.WAITING,)
            return tuple(_Columns(record.count, state, numbers, repeat(record.time_ns), repeat(0)) for state in states)
        case Entered():
            numbers = _expand(record.numbers, record.count)
            times, attempts = _each(record.times_ns), _each(record.attempts)
            details = record.details or repeat("")
            return (_Columns(record.count, record.state, numbers, times, attempts, details=details),)
        case Ran():
            numbers, attempts = _expand(record.numbers, record.count), _each(record.attempts)
            return (
                _Columns(record.count, State.RUNNING, numbers, record.started_ns, attempts),
                _Columns(record.count, State.DONE, numbers, record.ended_ns, attempts),
            )
        case Placed():
            numbers = _expand(record.numbers, record.count)
            times, attempts = repeat(record.time_ns), _each(record.attempts)
            slots = _per_task(record.slots, record.sizes)
            ranges = _per_task(record.ranges or repeat(None), record.sizes)
            return (_Columns(record.count, State.PLACED, numbers, times, attempts, ranges, slots),)
        case ItemsEntered():
            times, attempts = repeat(record.time_ns), repeat(record.attempt)
            numbers, ranges, details = [record.number], repeat(record.items), repeat(record.detail)
            return (_Columns(1, record.state, numbers, times, attempts, ranges, details=details),)


def _expand(numbers: int | list[int], count: int) -> Sequence[int]:
    """Return the numbers where consecutive ones may be given by the first."""
    return range(numbers, numbers + count) if isinstance(numbers, int) else numbers


def _each(column: int | list[int]) -> Iterable[int]:
    """Return the values where equal ones may be given once."""
    return repeat(column) if isinstance(column, int) else column


def _per_task(groups: Iterable[T], sizes: list[int]) -> Iterable[T]:
    """Return what each group has, once for each of its tasks; without sizes all groups have one."""
    return chain.from_iterable(map(repeat, groups, sizes)) if sizes else groups


def _stretches(record: Accepted) -> Iterator[tuple[int, int, int]]:
    """Yield start, stop and definition id of the runs of like tasks."""
    for (start, which), (stop, _) in pairwise([*record.runs, (record.count, 0)]):
        yield start, stop, which


def _records(
    folder: Path, on_tail: Callable[[JournalTail], object] | None
) -> Generator[tuple[Path, int, AnyRecord], None, None]:
    """Yield each record with the place of its frame."""
    for path, frame in _frames(folder, on_tail):
        with _located(path, frame.offset):
            record = decode_record(frame.payload)
            if isinstance(record, Run) is not (frame.index == 0):
                raise ValueError("the record of the run stands first, and only there")
            if isinstance(record, Run) and record.schema != SCHEMA:
                raise ValueError(f"it is of schema {record.schema}, this version reads schema {SCHEMA}")
        yield path, frame.offset, record


def _frames(folder: Path, on_tail: Callable[[JournalTail], object] | None) -> Iterator[tuple[Path, Frame]]:
    """Yield all whole frames; tell of damage at the end, raise for other."""
    index = 0
    tail: tuple[Path, Damage] | None = None
    paths = _segments(folder / "journal")
    for path in paths:
        with _located(path), path.open("rb") as file:
            while isinstance(found := read_frame(file, index), Frame):
                tail = None  # what broke off in the segment before stands here once more
                yield path, found
                index += 1
            if found is None:
                continue
            tail = tail or (path, found)
            if holds_frame(file, found.offset):
                raise _damaged(*tail)
    if not index:
        tail = tail or (paths[0], Damage(0, "the journal is empty"))
    if tail is not None and on_tail is not None:
        path, damage = tail
        on_tail(JournalTail(path.name, damage.offset, damage.reason))


def _segments(folder: Path) -> list[Path]:
    """Return the segments in order.

    Raises:
        JournalError: There is none, or one is missing between others.
    """
    names = sorted(path.name for path in folder.glob("*.log") if _SEGMENT_NAME.fullmatch(path.name))
    if not names:
        raise JournalError(f"there is no journal in {folder}; give the folder of a run that was journaled")
    wanted = [f"{number:06d}.log" for number in range(1, len(names) + 1)]
    for name in wanted:
        if name not in names:
            raise JournalError(f"{folder / name} is missing, but {names[-1]} is there")
    return [folder / name for name in wanted]


@contextmanager
def _located(path: Path, offset: int = 0) -> Iterator[None]:
    """Say of what goes wrong where it did."""
    try:
        yield
    except OSError as exc:
        raise JournalError(f"cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise _damaged(path, Damage(offset, str(exc))) from exc


def _damaged(path: Path, damage: Damage) -> JournalError:
    return JournalError(f"the journal is damaged: {path} at offset {damage.offset}: {damage.reason}")
