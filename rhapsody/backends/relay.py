"""What a session and the executor of another node say to each other, over the streams of an `ssh`.

A message to an executor is a list of orders, one back is a list of what happened, both marshalled: the two are the same
Python. Values of users stay the bytes that workers made of them, so an executor needs none of the user's modules.
"""

from __future__ import annotations

import marshal
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.abc import Report
from rhapsody.backends import wire
from rhapsody.backends.decoding import decode, decode_items
from rhapsody.backends.member import Decoder
from rhapsody.backends.streaks import Streak, pack_streak, unpack_streak
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure, Stdio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

DONE = State.DONE
_new_tuple = tuple.__new__
BEAT_S = 1.0
"""An executor says something at least so often."""


class Post(NamedTuple):
    """What an executor is told once at its start.

    Attributes:
        node: Name of the node.
        rank: Of the node in the allocation.
        session: Which session of the run it is.
        run_dir: The run folder, on a file system that all nodes share.
        logs: Folder for logs and whole outputs.
        cwd: Folder that tasks run in unless they say otherwise.
        env: Variables of every task.
        variables: The session's environment, but for what belongs to its node.
        sys_path: Import path of the session.
        campaign_file: File of the campaign's module, or empty.
        further: What the runtime has to know, marshalled.
    """

    node: str
    rank: int
    session: int
    run_dir: str
    logs: str
    cwd: str
    env: dict[str, str]
    variables: dict[str, str]
    sys_path: tuple[str, ...]
    campaign_file: str
    further: bytes = b""


class Encoded(NamedTuple):
    """A value as a worker's record has it.

    Attributes:
        kind: Of the record.
        data: What follows the record's head.
    """

    kind: int
    data: bytes


def pack(messages: list[tuple[Any, ...]]) -> bytes:
    """Return messages as they travel; what is large in them comes once."""
    data = marshal.dumps(messages, wire.NO_REFERENCES)
    return wire.FRAME.pack(len(data)) + data


class Inbox:
    """Puts messages together from the bytes of a stream."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def add(self, data: bytes) -> Iterator[tuple[Any, ...]]:
        """Take bytes; yield the messages that are whole by now."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= wire.FRAME.size:
            (length,) = wire.FRAME.unpack_from(buffer)
            end = wire.FRAME.size + length
            if len(buffer) < end:
                return
            messages = marshal.loads(buffer[wire.FRAME.size : end])  # noqa: S302 - from our own other end
            del buffer[:end]
            yield from messages


def _keep(head: tuple[int, int, int, int], kind: int, data: bytes) -> Report:
    number, attempt, started, ended = head
    return Report(number, attempt, DONE, started, ended, Encoded(kind, data))


def _keep_items(number: int, attempt: int, times: tuple[int, int], data: bytes) -> list[Report]:
    first, count, *_ = marshal.loads(data)  # noqa: S302 - authenticated
    extent = (first, first + count)
    return [Report(number, attempt, DONE, *times, value=Encoded(wire.ITEMS, data), items=extent)]


def _keep_streak(streak: Streak) -> list[Report]:
    return [Report(streak.numbers[0], streak.attempts[0], DONE, value=streak)]


KEEPING = Decoder(_keep, _keep_items, _keep_streak)
"""Leaves encoded what workers have encoded; of a streak there is one report, whose value it is."""


def pack_reports(reports: Iterable[Report]) -> list[tuple[Any, ...]]:
    """Return reports with encoded values as they travel: a row each, a short one for a streak or a plain value."""
    rows: list[tuple[Any, ...]] = []
    for report in reports:
        number, attempt, state, started, ended, value, failure, stdio, items = report
        if type(value) is Streak:
            rows.append(pack_streak(value))
            continue
        if state is DONE and items is None and type(value) is not Encoded:
            rows.append((number, attempt, started, ended, value))
            continue
        kind, data = value if type(value) is Encoded else (-1, value)
        why = failure and (failure.cause.value, failure.message, failure.traceback)
        said = stdio and (stdio.stdout, stdio.stderr, stdio.exit_code)
        rows.append((number, attempt, state.value, started, ended, kind, data, why, said, items))
    return rows


def unpack_reports(rows: Sequence[tuple[Any, ...]], offset_ns: int) -> list[Report]:
    """Return the reports of rows, values decoded.

    Args:
        rows: As `pack_reports` has made them.
        offset_ns: Added to times it gives the session's clock.
    """
    reports: list[Report] = []
    for row in rows:
        if len(row) == _STREAK:
            reports += unpack_streak(row, offset_ns)
        elif len(row) == _PLAIN:
            number, attempt, started, ended, value = row
            # Report(…) spelled quicker: this line runs once per task
            whole = (number, attempt, DONE, started + offset_ns, ended + offset_ns, value, None, None, None)
            reports.append(_new_tuple(Report, whole))
        else:
            reports += _unpack(row, offset_ns)
    return reports


_STREAK = 3
_PLAIN = 5


def _unpack(row: tuple[Any, ...], offset_ns: int) -> list[Report]:
    number, attempt, state, started, ended, kind, data, why, said, items = row
    times = (started and started + offset_ns, ended and ended + offset_ns)
    if kind == wire.ITEMS:
        return decode_items(number, attempt, times, data)
    if kind >= 0:
        report = decode((number, attempt, *times), kind, data)
        return [report if items is None else report._replace(items=items)]
    failure = why and Failure(Cause(why[0]), why[1], None, why[2])
    return [Report(number, attempt, State(state), *times, data, failure, said and Stdio(*said), items)]
