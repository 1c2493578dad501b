"""Records of plain values of the same length that follow one another: read, and passed on, all at once.

Most results of quick functions are alike: None, numbers of the same size. A call per record would cost more than
all else that is done with them.
"""

from __future__ import annotations

import marshal
import struct
from array import array
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.abc import Report
from rhapsody.backends import wire
from rhapsody.model.event import State

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

SHORTEST = 8
"""Fewer records are read one by one."""
DONE = State.DONE
_HEAD = wire.RECORD.size
_SEQUENCE = struct.Struct("<Q")
_SHAPE = range(24, 29)
"""Where a record's head has its length and kind; see `wire.RECORD`."""
_new_tuple = tuple.__new__


class Streak(NamedTuple):
    """Such records, and which tasks they are of.

    Attributes:
        numbers: Of the tasks.
        attempts: Of each.
        records: As the worker sent them.
    """

    numbers: list[int]
    attempts: list[int]
    records: bytes


def alike(source: bytearray | mmap.mmap, offset: int, count: int, size: int) -> bytes | None:
    """Return records if all are alike and have sequence numbers in a row, else None.

    Args:
        source: Where they stand; the sequence numbers of a worker's records rise.
        offset: Of the first.
        count: Of records.
        size: Of the first record, its head included.
    """
    records = bytes(source[offset : offset + count * size])
    for place in _SHAPE:
        if records[place::size].count(records[place]) != count:
            return None
    (first,) = _SEQUENCE.unpack_from(records)
    (last,) = _SEQUENCE.unpack_from(records, len(records) - size)
    return records if last - first == count - 1 else None


def reports_of(streak: Streak) -> list[Report]:
    """Return a report of each task."""
    times = _times_of(streak.records) if _kind_of(streak.records) == wire.NONE else None
    return _reports(streak.numbers, streak.attempts, times, streak.records, 0)


def pack_streak(streak: Streak) -> tuple[Any, ...]:
    """Return a streak as it travels to another node: without what is known there, or the same for all."""
    numbers, attempts, records = streak
    attempt = attempts[0] if attempts.count(attempts[0]) == len(attempts) else attempts
    if _kind_of(records) == wire.NONE:
        started, ended = _times_of(records)
        return numbers, attempt, (started + ended).tobytes()
    return numbers, attempt, (records,)


def unpack_streak(row: tuple[Any, ...], offset_ns: int) -> list[Report]:
    """Return a report of each task.

    Args:
        row: As `pack_streak` has made it.
        offset_ns: Added to times it gives the session's clock.
    """
    numbers, attempts, data = row
    attempts = repeat(attempts) if type(attempts) is int else attempts
    if type(data) is tuple:
        return _reports(numbers, attempts, None, data[0], offset_ns)
    times = array("q", data)
    return _reports(numbers, attempts, (times[: len(numbers)], times[len(numbers) :]), b"", offset_ns)


def _reports(
    numbers: list[int],
    attempts: Iterable[int],
    times: tuple[Iterable[int], Iterable[int]] | None,
    records: bytes,
    offset_ns: int,
) -> list[Report]:
    """Return a report of each task, all values being None, or as the records have them if no times are given."""
    values: Iterable[object] = repeat(None)
    if times is None:
        started, ended, data = zip(*_record_of(len(records) // len(numbers)).iter_unpack(records), strict=True)
        times, values = (started, ended), map(marshal.loads, data)
    if offset_ns:
        times = map(offset_ns.__add__, times[0]), map(offset_ns.__add__, times[1])
    columns = zip(numbers, attempts, repeat(DONE), *times, values, *_NO_MORE, strict=False)
    # Report(…) spelled quicker, and without a line of Python that runs once per task
    return list(map(_new_tuple, repeat(Report), columns))


def _kind_of(records: bytes) -> int:
    kind: int = wire.RECORD.unpack_from(records)[4]
    return kind


def _times_of(records: bytes) -> tuple[array[int], array[int]]:
    """Return starts and ends from records that nothing follows: four words each."""
    words = array("q", records)
    return words[1::4], words[2::4]


_NO_MORE = (repeat(None), repeat(None), repeat(None))


@lru_cache(64)
def _record_of(size: int) -> struct.Struct:
    return struct.Struct(f"<8xqq8x{size - _HEAD}s")
