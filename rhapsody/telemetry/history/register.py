"""The tasks of a run over all its sessions, in columns: a million of them need little memory.

Tasks of different sessions are one row when they have the same key: the user's uid, else the fingerprints of code,
inputs and dependencies, and the position among equals.
"""

from __future__ import annotations

from array import array
from collections import Counter
from struct import pack
from typing import TYPE_CHECKING

from rhapsody.telemetry.history.item_log import DONE, ENDED, LAUNCHED, LOST, NEVER, RUNNING, ItemLog

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

NOBODY = 0xFFFF_FFFF
"""Row of a number that no task has."""

_LOST_IF_LAUNCHED = {LAUNCHED: LOST, RUNNING: LOST}
_LOST_IF_RUNNING = {LAUNCHED: NEVER, RUNNING: LOST}


class Register:
    """What is known of each task.

    Attributes:
        states: How far each was; one byte of `rhapsody.telemetry.history.item_log`.
        attempts: Number of the last attempt.
        frames: Frame of kept results that holds its value; 0 for None.
        positions: Where in that frame.
        made: Session in which it was DONE, or the last items of an array task were.
        items: Of array tasks, by row.
        unclaimed: Rows that were not claimed in this session, by label.
    """

    def __init__(self) -> None:
        self.states = bytearray()
        self.attempts = array("I")
        self.frames = array("I")
        self.positions = array("I")
        self.made = array("I")
        self.items: dict[int, ItemLog] = {}
        self.unclaimed: Counter[str] = Counter()
        self._highest = 0
        self._passed_over: set[int] = set()
        self._labels: list[str] = []
        self._label_ids: dict[str, int] = {}
        self._label_of = array("I")
        self._by_uid: dict[str, tuple[int, bytes]] = {}
        self._by_key: dict[bytes, int | list[int]] = {}
        self._claimed = bytearray()
        self._next: dict[bytes, int] = {}
        """Of keys that several rows have, how many of them were claimed in this session."""
        self._row_of = array("I")
        """By the number that a task has in this session."""

    def __len__(self) -> int:
        return len(self.states)

    def begin_session(self) -> None:
        """Let all rows be claimed anew; numbers count anew."""
        self._claimed = bytearray(len(self.states))
        self._next = {}
        self._row_of = array("I")
        self._highest = 0
        self._passed_over = set()
        self.unclaimed = Counter({self._labels[which]: count for which, count in Counter(self._label_of).items()})

    def row_of(self, number: int) -> int:
        """Return the row of a task of this session, `NOBODY` if there is none."""
        if number < len(self._row_of):
            return self._row_of[number]
        self._highest = max(self._highest, number)
        return NOBODY

    def pass_over(self, numbers: Iterable[int]) -> None:
        """Take note that there are tasks of this session that get no row."""
        self._passed_over.update(numbers)

    @property
    def highest(self) -> int:
        """Highest number of a task that was accepted in this session."""
        return max(0, len(self._row_of) - 1, *self._passed_over)

    def missing_numbers(self) -> frozenset[int]:
        """Return the numbers of this session, up to the highest asked for, under which no task was accepted."""
        known = len(self._row_of)
        highest = max(known - 1, self._highest)
        found = frozenset(at for at in range(1, highest + 1) if at >= known or self._row_of[at] == NOBODY)
        return found - self._passed_over

    def claim(self, number: int, uid: str | None, key: bytes, label: str, length: int | None) -> tuple[int, bool]:
        """Return the row of a task that an earlier session had, `NOBODY` if none had it.

        Args:
            number: In this session.
            uid: That its user gave it.
            key: What `key_of` makes of it; empty where it has none.
            label: What runs, for people.
            length: Items of an array task; else None.

        Returns:
            The row, and whether the user's uid was known with another key.
        """
        row, is_changed = self._find(uid, key)
        if uid is not None and row != NOBODY and self._length_of(row) != length:
            row, is_changed = NOBODY, True
        if row != NOBODY:
            self._claimed[row] = 1
            self.unclaimed[label] -= 1
            self._number(number, row)
        return row, is_changed

    def claim_unnamed(self, numbers: Sequence[int], keys: Iterable[bytes], label: str) -> list[int]:
        """Return the rows of tasks without a uid of their user's; the same as `claim` for each, at less cost.

        Args:
            numbers: In this session.
            keys: As for `claim`.
            label: What runs in all of them.
        """
        by_key, claimed = self._by_key, self._claimed
        rows: list[int] = []
        for key in keys:
            found = by_key.get(key)
            if found.__class__ is int and not claimed[found]:
                claimed[found] = 1
                rows.append(found)
                continue
            row, _ = self._find(None, key)
            if row != NOBODY:
                claimed[row] = 1
            rows.append(row)
        self.unclaimed[label] -= len(rows) - rows.count(NOBODY)
        self._number_all(numbers, rows)
        return rows

    def take_in(self, numbers: Sequence[int], keys: Iterable[bytes], label: str) -> None:
        """Give rows to tasks without a uid of their user's, those of an earlier session or new ones.

        The same as `claim` and `add` for each, at less cost; what had failed may run again.

        Args:
            numbers: In this session.
            keys: As for `claim`.
            label: What runs in all of them.
        """
        before = len(self._claimed)
        rows = list(map(self._row_for, keys))
        fresh = len(self._claimed) - before
        self.unclaimed[label] -= len(rows) - fresh
        self._extend(fresh, label)
        self._number_all(numbers, rows)

    def _row_for(self, key: bytes) -> int:
        """Return the row of the next task of a key, claimed; a new one's other columns are still to be made."""
        claimed, row = self._claimed, len(self._claimed)
        found = self._by_key.get(key)
        if found is None:
            if key:
                self._by_key[key] = row
        elif isinstance(found, list):
            at = self._next.get(key, 0)
            self._next[key] = at + 1
            if at == len(found):
                found.append(row)
            row = found[at]
        elif claimed[found]:
            self._by_key[key], self._next[key] = [found, row], 2
        else:
            row = found
        if row == len(claimed):
            claimed.append(1)
            return row
        claimed[row] = 1
        if self.states[row] == ENDED:
            self.states[row] = NEVER
        return row

    def _extend(self, count: int, label: str) -> None:
        """Make the columns longer by new rows; whoever calls has claimed them."""
        self.states.extend(bytes([NEVER]) * count)
        for column in (self.attempts, self.frames, self.positions, self.made):
            column.extend(array("I", [0]) * count)
        self._label_of.extend(array("I", [self._label_id(label)]) * count)

    def rows_of(self, numbers: Sequence[int]) -> Sequence[int]:
        """Return the rows of tasks of this session, `NOBODY` where there is none."""
        if isinstance(numbers, range) and numbers and numbers[-1] < len(self._row_of):
            return self._row_of[numbers[0] : numbers[-1] + 1]
        return list(map(self.row_of, numbers))

    def _number_all(self, numbers: Sequence[int], rows: Sequence[int]) -> None:
        if numbers and numbers[0] == len(self._row_of) and isinstance(numbers, range):
            self._row_of.extend(rows)
            return
        for number, row in zip(numbers, rows, strict=True):
            if row != NOBODY:
                self._number(number, row)

    def _length_of(self, row: int) -> int | None:
        log = self.items.get(row)
        return None if log is None else len(log.states)

    def _find(self, uid: str | None, key: bytes) -> tuple[int, bool]:
        if uid is not None:
            row, known = self._by_uid.get(uid, (NOBODY, b""))
            if row == NOBODY or self._claimed[row]:
                return NOBODY, False
            return (row, False) if known == key or not (key and known) else (NOBODY, True)
        found = self._by_key.get(key) if key else None
        if isinstance(found, list):
            at = self._next.get(key, 0)
            self._next[key] = min(at + 1, len(found))
            return (found[at], False) if at < len(found) else (NOBODY, False)
        return (NOBODY if found is None or self._claimed[found] else found), False

    def add(self, number: int, uid: str | None, key: bytes, label: str, length: int | None) -> None:
        """Give a row to a task that no earlier session had; arguments as for `claim`.

        Args:
            number: In this session.
            uid: That its user gave it.
            key: As for `claim`.
            label: As for `claim`.
            length: Items of an array task; else None.
        """
        row = len(self.states)
        self._claimed.append(1)
        self._extend(1, label)
        if length is not None:
            self.items[row] = ItemLog(length)
        if uid is not None:
            self._by_uid[uid] = row, key
        elif key:
            self._remember(key, row)
        self._number(number, row)

    def _remember(self, key: bytes, row: int) -> None:
        found = self._by_key.get(key)
        if found is None:
            self._by_key[key] = row
            return
        if not isinstance(found, list):
            found = self._by_key[key] = [found]
        found.append(row)
        self._next[key] = len(found)

    def _label_id(self, label: str) -> int:
        which = self._label_ids.get(label)
        if which is None:
            which = self._label_ids[label] = len(self._labels)
            self._labels.append(label)
        return which

    def _number(self, number: int, row: int) -> None:
        row_of = self._row_of
        if number == len(row_of):
            row_of.append(row)
            return
        if number > len(row_of):
            row_of.extend([NOBODY] * (number + 1 - len(row_of)))
        row_of[number] = row

    def doubt(self) -> None:
        """Take note that records are missing: what had not started may have, unless more is heard of it."""
        claimed = self._claimed
        for row, state in enumerate(self.states):
            if state == NEVER or (state == ENDED and not claimed[row]):  # that may have been accepted once more
                self.states[row] = LOST
        for log in self.items.values():
            log.doubt()

    def settle(self, *, complete: bool) -> None:
        """Take note that a session is over: what it launched and nobody heard of never started, or is lost.

        Args:
            complete: What else was under way is known.
        """
        after = _LOST_IF_RUNNING if complete else _LOST_IF_LAUNCHED
        self.states = self.states.translate(bytes(after.get(state, state) for state in range(256)))
        for log in self.items.values():
            log.settle(complete=complete)

    def count(self, state: int) -> int:
        """Return how many tasks are in a state; items of array tasks count instead of these."""
        items = sum(log.states.count(state) for log in self.items.values())
        return items + self.states.count(state) - sum(self.states[row] == state for row in self.items)

    def left_unclaimed(self) -> Iterator[str]:
        """Yield the label of each row that was DONE and was not claimed in this session."""
        for row, is_claimed in enumerate(self._claimed):
            if not is_claimed and self.states[row] == DONE:
                yield self._labels[self._label_of[row]]


def key_of(code: bytes, inputs: bytes, dependencies: Sequence[int]) -> bytes:
    """Return the key of a task from its fingerprints and the rows of what it depends on; empty where one is missing."""
    if not code or not inputs or NOBODY in dependencies:
        return b""
    if not dependencies:
        return code + inputs
    count = len(dependencies)
    return code + inputs + pack(f"<{count}I", *dependencies) + pack("<I", count)
