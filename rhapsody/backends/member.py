"""One worker as its pool sees it: what it was sent, what it reported, and how it is halted to call tasks back."""

from __future__ import annotations

import marshal
import os
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.abc import Report
from rhapsody.backends import streaks, wire
from rhapsody.backends.decoding import decode, decode_items
from rhapsody.model.event import State
from rhapsody.node.processes import is_stopped

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import Callable, Collection, Iterator

DONE = State.DONE
_HALT_LIMIT_S = 0.005
_HEAD = wire.RECORD.size
_new_tuple = tuple.__new__


class Lane(NamedTuple):
    """What a worker is bound to for its life.

    Attributes:
        name: Tells lanes apart.
        cpus: The operating system's CPU numbers; empty binds to nothing.
        env: Variables set in the worker, such as the GPUs it sees.
    """

    name: str
    cpus: tuple[int, ...] = ()
    env: tuple[tuple[str, str], ...] = ()


class Decoder(NamedTuple):
    """Makes reports of a worker's records, but for single ones of plain values.

    Attributes:
        one: Called with number, attempt, start and end of a task, the kind of its record, and what follows its head.
        items: Called with number and attempt of an array task, start and end, and what follows the record's head; its
            last report is on all those items.
        streak: Called with records of plain values that are alike.
    """

    one: Callable[[tuple[int, int, int, int], int, bytes], Report] = decode
    items: Callable[[int, int, tuple[int, int], bytes], list[Report]] = decode_items
    streak: Callable[[streaks.Streak], list[Report]] = streaks.reports_of


DECODER = Decoder()
"""Leaves nothing encoded."""


class InFlight(NamedTuple):
    """One task that was sent and not reported on."""

    sequence: int
    number: int
    attempt: int
    extra: dict[str, Any]
    items: tuple[int, int] | None


class Chunk(NamedTuple):
    """Tasks for one lane, as they travel; made by `of` or `arrived`.

    What only the worker has to understand is encoded once, and passed on as it is.

    Attributes:
        numbers: Of the tasks.
        attempts: Of each.
        functions: Ids of all that are called; -1 for executables.
        heads: Numbers, attempts (one number when it is the same for all) and items, marshalled.
        body: Function ids (one number when it is the same for all) and payloads, marshalled.
        extras: Of each what few need, or None; None when none has any.
        items: For one array task, the range of its items.
    """

    numbers: list[int]
    attempts: list[int]
    functions: tuple[int, ...]
    heads: bytes
    body: bytes
    extras: list[dict[str, Any] | None] | None = None
    items: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        numbers: list[int],
        attempts: list[int],
        function_ids: list[int],
        payloads: list[Any],
        extras: list[dict[str, Any] | None] | None = None,
        items: tuple[int, int] | None = None,
    ) -> Chunk:
        """Return a chunk, given what it tells column by column.

        Args:
            numbers: Of the tasks, at least one.
            attempts: Of each.
            function_ids: Of each; -1 for executables.
            payloads: Of each: a tuple of scalars (the arguments) or bytes (pickled `(args, kwargs)`).
            extras: See the attribute.
            items: See the attribute.
        """
        functions = tuple(set(function_ids))
        all_equal = attempts.count(attempts[0]) == len(attempts)
        heads = marshal.dumps((numbers, attempts[0] if all_equal else attempts, items), wire.NO_REFERENCES)
        body = marshal.dumps((functions[0] if len(functions) == 1 else function_ids, payloads))
        return cls(numbers, attempts, functions, heads, body, extras, items)

    @classmethod
    def arrived(cls, functions: tuple[int, ...], heads: bytes, body: bytes, extras: bytes) -> Chunk:
        """Return a chunk, given what `travelling` has returned elsewhere."""
        numbers, attempts, items = marshal.loads(heads)  # noqa: S302 - from the session
        attempts = [attempts] * len(numbers) if type(attempts) is int else attempts
        return cls(numbers, attempts, functions, heads, body, marshal.loads(extras), items)  # noqa: S302 - as above

    def travelling(self) -> tuple[tuple[int, ...], bytes, bytes, bytes]:
        """Return what has to be told elsewhere to have this chunk there."""
        return self.functions, self.heads, self.body, marshal.dumps(self.extras)

    def tasks(self) -> list[InFlight]:
        """Return the tasks of a chunk that was not sent."""
        pairs = zip(self.numbers, self.attempts, strict=True)
        return [InFlight(0, number, attempt, {}, self.items) for number, attempt in pairs]

    def without(self, dropped: Collection[int]) -> Chunk | None:
        """Return the chunk without the tasks at some positions; None when none is left."""
        kept = [index for index in range(len(self.numbers)) if index not in dropped]
        if not kept:
            return None
        _, function_ids, payloads = wire.columns(self.heads, self.body)
        return Chunk.of(
            [self.numbers[index] for index in kept],
            [self.attempts[index] for index in kept],
            [function_ids[index] for index in kept],
            [payloads[index] for index in kept],
            self.extras and [self.extras[index] for index in kept],
            self.items,
        )


class _Segment:
    """A chunk that was sent, with the sequence number of its first task and how far reports have come."""

    __slots__ = ("attempts", "extras", "first", "items", "next", "numbers")

    def __init__(self, first: int, chunk: Chunk) -> None:
        self.first = first
        self.next = 0
        self.numbers = chunk.numbers
        self.attempts = chunk.attempts
        self.extras = chunk.extras
        self.items = chunk.items


class Member:
    """A worker of the pool.

    Attributes:
        worker_id: Never used twice in a pool.
        lane: What it is bound to.
        functions: Ids of the functions that it knows.
        pending: Chunks that wait for it to connect.
        canceled: Sequence numbers that somebody asked to cancel.
        doomed: Why the pool is killing it for its current task; empty while it does not.
        seen: `CURRENT` at the last look.
        announced: Sequence number that was last reported RUNNING.
        started_s: When it was started, monotonic.
        settled: Last sequence number whose result is in the journal, where the pool is told that; see `Pool.settle`.

    Args:
        decoder: Makes reports of records.
    """

    def __init__(self, worker_id: int, lane: Lane, decoder: Decoder = DECODER) -> None:
        self.worker_id = worker_id
        self.lane = lane
        self._decoder = decoder
        self.functions: set[int] = set()
        self.pending: list[Chunk] = []
        self.canceled: set[int] = set()
        self.doomed = ""
        self.seen = 0
        self.announced = 0
        self.started_s = time.monotonic()
        self.settled = 0
        self.pid = 0
        self.connection: socket.socket | None = None
        self.outgoing: deque[memoryview] = deque()
        self._page: mmap.mmap | None = None
        self._words: memoryview = memoryview(b"")
        self._segments: deque[_Segment] = deque()
        self._next = 1
        self._buffer = bytearray()
        self._needed = _HEAD

    def connect(self, connection: socket.socket, pid: int, page: mmap.mmap) -> None:
        """Take the connection over which the worker said hello."""
        self.connection, self.pid, self._page = connection, pid, page
        self._words = wire.page_words(page)

    @property
    def is_idle(self) -> bool:
        """Whether nothing that it was given is open."""
        return not self._segments and not self.pending

    @property
    def current(self) -> int:
        """Sequence number of the task that it started last."""
        return int(self._words[wire.CURRENT]) if self._words else 0

    @property
    def started_ns(self) -> int:
        """When it started that one, on the session's clock."""
        return int(self._words[wire.STARTED])

    @property
    def read(self) -> int:
        """Last sequence number up to which all that it reported was read."""
        return self._segments[0].first + self._segments[0].next - 1 if self._segments else self._next - 1

    def take(self, chunk: Chunk, settled: int) -> bytes:
        """Note a chunk as sent; return the message to send.

        Args:
            chunk: To be sent.
            settled: Last sequence number whose result is in the journal: the worker may forget that now.
        """
        first = self._next
        self._segments.append(_Segment(first, chunk))
        self._next += len(chunk.numbers)
        return wire.frame(("run", first, settled, chunk.heads, chunk.body, chunk.extras))

    def recall(self, sequence: int, number: int, attempt: int, items: tuple[int, int] | None) -> None:
        """Expect the result of a task that somebody else had sent to the worker."""
        self._segments.append(_Segment(sequence, Chunk.of([number], [attempt], [], [], None, items)))

    def in_flight(self) -> Iterator[InFlight]:
        """Yield what was sent and not reported on, in order."""
        for segment in self._segments:
            for index in range(segment.next, len(segment.numbers)):
                extra = (segment.extras[index] if segment.extras else None) or {}
                yield InFlight(
                    segment.first + index, segment.numbers[index], segment.attempts[index], extra, segment.items
                )

    def receive(self, data: bytes) -> list[Report]:
        """Take bytes that it sent; return what they report."""
        buffer = self._buffer
        buffer += data
        if len(buffer) < self._needed:
            return []
        reports: list[Report] = []
        used = self._parse(buffer, 0, len(buffer), reports)
        del buffer[:used]
        return reports

    def harvest(self) -> list[Report]:
        """Read results from the page that it has not sent; only while it is halted or dead."""
        if self._page is None:
            return []
        reports: list[Report] = []
        end = wire.OUTBOX + int(self._words[wire.COMMITTED])
        self._parse(self._page, wire.OUTBOX, end, reports)
        self._needed = _HEAD
        return reports

    def _parse(  # noqa: C901, PLR0915 - the hot path: a call per task would cost more than the rest of it
        self, source: bytearray | mmap.mmap, offset: int, end: int, reports: list[Report]
    ) -> int:
        """Read records from `offset` on; return where the first incomplete one begins. The hot path."""
        unpack, segments = wire.RECORD.unpack_from, self._segments
        self._needed = _HEAD
        looked = offset
        while end - offset >= _HEAD:
            sequence, started, ended, length, kind = unpack(source, offset)
            begin = offset + _HEAD
            if begin + length > end:
                self._needed = _HEAD + length
                break
            offset = begin + length
            while segments and segments[0].next >= len(segments[0].numbers):
                segments.popleft()
            if not segments:
                continue  # read before, from the page
            segment = segments[0]
            index = segment.next
            if sequence != segment.first + index:
                continue  # read before, from the page
            if kind <= wire.SCALARS and looked < offset:
                looked = self._take_streak(segment, source, begin - _HEAD, end, reports)
                if segment.next > index:
                    offset = looked
                    continue
            number, attempt = segment.numbers[index], segment.attempts[index]
            if kind <= wire.SCALARS:
                value = None if kind == wire.NONE else marshal.loads(source[begin:offset])  # noqa: S302 - authenticated
                # Report(…) spelled quicker: this line runs once per task
                report = _new_tuple(Report, (number, attempt, DONE, started, ended, value, None, None, None))
                reports.append(report)
            elif kind >= wire.ITEMS:
                self._take_items(segment, (started, ended), bytes(source[begin:offset]), reports)
                if kind == wire.ITEMS:
                    continue
            else:
                report = self._decoder.one((number, attempt, started, ended), kind, bytes(source[begin:offset]))
                reports.append(report if segment.items is None else report._replace(items=segment.items))
            segment.next = index + 1
        while segments and segments[0].next >= len(segments[0].numbers):
            segments.popleft()
        return offset

    def _take_streak(
        self, segment: _Segment, source: bytearray | mmap.mmap, offset: int, end: int, reports: list[Report]
    ) -> int:
        """Read the segment's records from `offset` on at once, if they are alike; return how far was looked."""
        index = segment.next
        size: int = _HEAD + wire.RECORD.unpack_from(source, offset)[3]
        count = min(len(segment.numbers) - index, (end - offset) // size)
        looked = offset + count * size
        if count >= streaks.SHORTEST and (records := streaks.alike(source, offset, count, size)) is not None:
            segment.next = stop = index + count
            streak = streaks.Streak(segment.numbers[index:stop], segment.attempts[index:stop], records)
            reports += self._decoder.streak(streak)
        return looked

    def _take_items(self, segment: _Segment, times: tuple[int, int], data: bytes, reports: list[Report]) -> None:
        found = self._decoder.items(segment.numbers[0], segment.attempts[0], times, data)
        first, end = found[-1].items or (0, 0)
        if segment.items is None or first < segment.items[0]:
            return  # read before, from the page
        segment.items = (end, segment.items[1])
        reports += found

    def halt(self) -> bool:
        """Stop the process where it is; return whether it stands still. Follow with `go_on`."""
        try:
            os.kill(self.pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False
        deadline = time.monotonic() + _HALT_LIMIT_S
        while not is_stopped(self.pid):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.0001)
        return True

    def go_on(self) -> None:
        """Let a halted process go on."""
        try:
            os.kill(self.pid, signal.SIGCONT)
        except ProcessLookupError:
            return

    def call_back(self) -> list[InFlight]:
        """Take back every task behind the current one; only while halted. The worker will skip them."""
        current = self.current
        if not self._words[wire.SKIP_FROM] <= current < self._words[wire.SKIP_UNTIL]:
            self._words[wire.SKIP_FROM] = current + 1  # else it is passing tasks that were called back before
        self._words[wire.SKIP_UNTIL] = self._next
        taken = [task for task in self.in_flight() if task.sequence > current]
        for segment in list(self._segments):
            keep = max(segment.next, current + 1 - segment.first)
            segment.numbers = segment.numbers[: max(0, keep)]
        while self._segments and self._segments[-1].next >= len(self._segments[-1].numbers):
            self._segments.pop()
        return taken

    def bury(self) -> tuple[list[InFlight], int, int]:
        """Return what was open when it died, the sequence number it was at, and the array item it was at."""
        open_tasks = list(self.in_flight())
        item = int(self._words[wire.ITEM]) if self._words else 0
        self._segments.clear()
        return open_tasks, self.current, 0 if item == wire.NONE_YET else item

    def close(self) -> None:
        """Let go of connection and page."""
        self._words.release()
        self._words = memoryview(b"")
        if self._page is not None:
            self._page.close()
            self._page = None
        if self.connection is not None:
            self.connection.close()
            self.connection = None


class Extent(NamedTuple):
    """How far the results of a pool's workers were read.

    Attributes:
        buried: Workers whose end was settled.
        members: Living ones, each with the last sequence number.
    """

    buried: int
    members: list[tuple[Member, int]]
