"""Reads the journal of a run into rows: how far each task was when the last session ended."""

from __future__ import annotations

from array import array
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.abc import Aftermath
from rhapsody.model.event import State
from rhapsody.telemetry.definitions import inputs_in
from rhapsody.telemetry.frames import Accepted, AnyRecord, Entered, ItemsEntered, Placed, Ran, Restored, Run
from rhapsody.telemetry.history.item_log import DONE, ENDED, LAUNCHED, LOST, NEVER, RUNNING
from rhapsody.telemetry.history.register import NOBODY, Register, key_of
from rhapsody.telemetry.mark import read_extent
from rhapsody.telemetry.reader import JournalReader, each, expand, per_task
from rhapsody.telemetry.scan import JournalTail, located, segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rhapsody.abc import Report

_AFTER = {
    State.WAITING: NEVER,
    State.READY: NEVER,
    State.RUNNING: RUNNING,
    State.DONE: DONE,
    State.UNKNOWN: LOST,
    State.FAILED: ENDED,
    State.CANCELED: ENDED,
}
"""How far a task is that entered a state; WAITING stands behind FAILED where it is tried again."""

_SERVICE = "service"


class _Newcomer(NamedTuple):
    """A task that was accepted; `needed` are the numbers of what it depends on."""

    number: int
    uid: str | None
    code: bytes
    inputs: bytes
    needed: Sequence[int]
    label: str
    length: int | None


class Recollection:
    """What the sessions of a run did, after reading.

    Args:
        folder: The run folder.
        aftermaths: What the backend knows of each session beyond the journal, by number of the session.
        damages: Gets the damaged places.

    Attributes:
        register: The tasks.
        session: The last session.
        frames: Of the journal.
        tail: Where the journal breaks off.
        salvaged: How tasks ended, by row, where that is not in the journal.
        salvaged_items: Values of items of array tasks that are not there either; a stretch of an item log names them by
            -1, -2, … in place of a frame.
        missing: Numbers of tasks that may stand where the journal is damaged.
        kept: Highest number of a frame of kept results that the journal names; it may never have come to disk.
        is_cut: Whether tasks were accepted in what is missing of the journal's end: any further task may be one.

    Raises:
        JournalError: There is no journal, a segment is missing, or one cannot be read.
    """

    def __init__(self, folder: Path, aftermaths: Mapping[int, Aftermath], damages: list[JournalTail]) -> None:
        self.register = Register()
        self.session = 0
        self.salvaged: dict[int, Report] = {}
        self.salvaged_items: list[Sequence[Any]] = []
        self.missing: set[int] = set()
        self.kept = 0
        self.is_cut = False
        self._has_gaps = False
        self._awaiting: dict[int, list[_Newcomer]] = {}
        """Tasks that stand before one that they depend on, by its number."""
        self._aftermaths = aftermaths
        self._damages = damages
        reader = JournalReader(folder, self._note_damage)
        for path, offset, record in reader.records():
            with located(path, offset):
                self._take(record, reader)
            if isinstance(record, Entered | Ran | ItemsEntered | Restored):
                self.kept = max(self.kept, record.kept if isinstance(record.kept, int) else max(record.kept))
        self.frames = reader.index
        self.tail = reader.tail
        self._look_for_cut(folder / "journal")
        self._end_session()

    def _look_for_cut(self, journal: Path) -> None:
        """Notice when more was written than is there now."""
        extent = read_extent(journal)
        if extent.frames > self.frames:
            path = segments(journal)[-1]
            reason = f"the file was cut off: {extent.frames} frames were written, {self.frames} are there"
            self._note_damage(JournalTail(path.name, path.stat().st_size, reason))
            self.is_cut = extent.highest > self.register.highest

    def _note_damage(self, place: JournalTail) -> None:
        self._damages.append(place)
        self._has_gaps = True
        self.register.doubt()

    def _take(self, record: AnyRecord, reader: JournalReader) -> None:
        match record:
            case Run():
                self._end_session()
                self.session = record.session
                self.register.begin_session()
            case Accepted():
                self._accept(record, reader)
            case Placed():
                self._place(record)
            case Entered() if record.state in _AFTER:
                self._enter_one_by_one(record)
            case Ran():
                self._run(record)
            case ItemsEntered():
                self._enter_items(record)
            case Restored():
                self._restore(record)

    def _accept(self, record: Accepted, reader: JournalReader) -> None:
        found = reader.newcomers(record)
        inputs = list(inputs_in(record.inputs, record.count))
        dependencies = dict(record.dependencies)
        special = found.uids or found.lengths or dependencies or self._awaiting
        for start, stop, kind, label, _, _, code in found.groups:
            if kind == _SERVICE:  # the campaign starts it again; what comes of it is nobody's result
                self.register.pass_over(found.numbers[start:stop])
                continue
            if code and not special:
                keys = [code + each_one if each_one else b"" for each_one in inputs[start:stop]]
                self.register.take_in(found.numbers[start:stop], keys, label)
                continue
            for at in range(start, stop):
                number = found.numbers[at]
                uid, length = found.uids.get(number), found.lengths.get(number)
                needed = dependencies.get(at, ())
                if needed or self._awaiting:
                    self._enrol(_Newcomer(number, uid, code, inputs[at], needed, label, length))
                else:
                    self._give_row(number, uid, key_of(code, inputs[at], ()), label, length)

    def _give_row(self, number: int, uid: str | None, key: bytes, label: str, length: int | None) -> None:
        register = self.register
        row, _ = register.claim(number, uid, key, label, length)
        if row == NOBODY:
            register.add(number, uid, key, label, length)
        elif register.states[row] == ENDED:
            register.states[row] = NEVER

    def _enrol(self, newcomer: _Newcomer) -> None:
        """Give a task its row, once those have one that it depends on, and then those that depend on it."""
        row_of, todo = self.register.row_of, [newcomer]
        while todo:
            number, uid, code, inputs, needed, label, length = each_one = todo.pop()
            rows = list(map(row_of, needed))
            if NOBODY in rows:
                self._awaiting.setdefault(needed[rows.index(NOBODY)], []).append(each_one)
                continue
            self._give_row(number, uid, key_of(code, inputs, rows), label, length)
            if self._awaiting:
                todo += reversed(self._awaiting.pop(number, ()))

    def _place(self, record: Placed) -> None:
        numbers = expand(record.numbers, record.count)
        if record.ranges or not self._entered_together(LAUNCHED, numbers, record.attempts):
            ranges = per_task(record.ranges or repeat(None), record.sizes)
            self._enter(LAUNCHED, numbers, each(record.attempts), ranges)

    def _run(self, record: Ran) -> None:
        numbers = expand(record.numbers, record.count)
        if not self._entered_together(DONE, numbers, record.attempts, record.kept):
            self._enter(DONE, numbers, each(record.attempts), repeat(None))
            self._keep(numbers, repeat(record.kept), range(record.count))

    def _enter_one_by_one(self, record: Entered) -> None:
        numbers = expand(record.numbers, record.count)
        self._enter(_AFTER[record.state], numbers, each(record.attempts), repeat(None))
        if record.state is State.DONE:
            self._keep(numbers, repeat(record.kept), range(record.count))

    def _entered_together(
        self, state: int, numbers: Sequence[int], attempts: int | list[int], kept: int | None = None
    ) -> bool:
        """Let tasks enter a state whose rows follow one another; return False where they do not, and nothing was done.

        Args:
            state: LAUNCHED or DONE.
            numbers: Of the tasks.
            attempts: Theirs.
            kept: For DONE, the frame of what they left.
        """
        register = self.register
        if self.salvaged or register.items or not isinstance(numbers, range) or not isinstance(attempts, int):
            return False
        rows = register.rows_of(numbers)
        first, count = rows[0], len(rows)
        if rows != array("I", range(first, min(first + count, NOBODY))):
            return False
        where = slice(first, first + count)
        register.states[where] = bytes([state]) * count
        register.attempts[where] = array("I", [attempts]) * count
        if kept is not None:
            register.frames[where] = array("I", [kept]) * count
            register.positions[where] = array("I", range(count))
            register.made[where] = array("I", [self.session]) * count
        return True

    def _enter(
        self, state: int, numbers: Iterable[int], attempts: Iterable[int], ranges: Iterable[tuple[int, int] | None]
    ) -> None:
        register = self.register
        states, last, row_of = register.states, register.attempts, register.row_of
        for number, attempt, items in zip(numbers, attempts, ranges, strict=False):
            row = row_of(number)
            if row == NOBODY:
                continue
            if items is not None and row in register.items:
                register.items[row].enter(state, items)
            elif (row not in register.items or state == DONE) and not (state == ENDED and states[row] == DONE):
                states[row] = state  # what was DONE, and could not be restored, did not run again
            last[row] = attempt

    def _keep(self, numbers: Iterable[int], kept: Iterable[int], positions: Iterable[int]) -> None:
        register = self.register
        for number, frame, position in zip(numbers, kept, positions, strict=False):
            row = register.row_of(number)
            if row != NOBODY:
                register.frames[row], register.positions[row] = frame, position
                register.made[row] = self.session
                if self.salvaged:
                    self.salvaged.pop(row, None)  # it ran again

    def _enter_items(self, record: ItemsEntered) -> None:
        row = self.register.row_of(record.number)
        log = self.register.items.get(row)
        if log is None:
            return
        if record.state is State.DONE:
            log.done(record.items, record.kept)
            self.register.made[row] = self.session
        elif record.state is not State.RUNNING:  # that says of a range that its first item runs
            log.enter(_AFTER[record.state], record.items)

    def _restore(self, record: Restored) -> None:
        register = self.register
        columns = zip(
            expand(record.numbers, record.count),
            each(record.attempts),
            record.ranges or repeat(None),
            each(record.kept),
            each(record.positions),
            strict=False,
        )
        for number, attempt, items, frame, position in columns:
            row = register.row_of(number)
            if row == NOBODY:
                continue
            if items is not None and row in register.items:
                register.items[row].restored(items, frame, position)
            else:
                register.states[row], register.frames[row], register.positions[row] = DONE, frame, position
                self.salvaged.pop(row, None)  # its value is kept by now
            register.attempts[row] = attempt

    def _end_session(self) -> None:
        """Take what is known beyond the journal of the session that was read."""
        if not self.session:
            return
        aftermath = self._aftermaths.get(self.session, Aftermath())
        for report in aftermath.reports:
            self._salvage(report)
        self._awaiting.clear()
        self.register.settle(complete=aftermath.complete and not self._has_gaps)
        if self._has_gaps:
            self.missing |= self.register.missing_numbers()
            self._has_gaps = False

    def _salvage(self, report: Report) -> None:
        register = self.register
        row = register.row_of(report.number)
        if row == NOBODY or (row not in register.items and report.attempt < register.attempts[row]):
            return
        if row in register.items:
            self._salvage_items(row, report)
        elif register.states[row] in (NEVER, LAUNCHED, RUNNING, LOST):
            register.attempts[row] = report.attempt
            register.states[row] = _AFTER.get(report.state, LAUNCHED)
            if report.state is State.DONE:
                self.salvaged[row] = report
                register.made[row] = self.session

    def _salvage_items(self, row: int, report: Report) -> None:
        if report.items is None:
            return
        log = self.register.items[row]
        if report.state is State.DONE:
            self.salvaged_items.append(report.value)
            log.salvaged(report.items, -len(self.salvaged_items))
            self.register.made[row] = self.session
        else:
            log.heard(_AFTER.get(report.state, LAUNCHED), report.items)
