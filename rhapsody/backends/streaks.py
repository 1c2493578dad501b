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
from typing import TYPE_CHECKING, NamedTuple

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
_WORDS = _HEAD // 8
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


def reports_of(streak: Streak, offset_ns: int = 0) -> list[Report]:
    """Return a report of each task.

    Args:
        streak: At least one record.
        offset_ns: Added to the records' times it gives the session's clock.
    """
    numbers, attempts, records = streak
    _, _, _, length, kind = wire.RECORD.unpack_from(records)
    started: Iterable[int]
    ended: Iterable[int]
    values: Iterable[object] = repeat(None)
    if kind == wire.NONE:
        words = array("q", records)
        started, ended = words[1::_WORDS], words[2::_WORDS]
    else:
        started, ended, data = zip(*_record_of(length).iter_unpack(records), strict=True)
        values = map(marshal.loads, data)
    if offset_ns:
        started, ended = map(offset_ns.__add__, started), map(offset_ns.__add__, ended)
    # Report(…) spelled quicker, and without a line of Python that runs once per task
    columns = zip(numbers, attempts, repeat(DONE), started, ended, values, *_NO_MORE, strict=False)
    return list(map(_new_tuple, repeat(Report), columns))  # type: ignore[arg-type]


_NO_MORE = (repeat(None), repeat(None), repeat(None))


@lru_cache(64)
def _record_of(length: int) -> struct.Struct:
    return struct.Struct(f"<8xqq8x{length}s")
