"""One worker as its pool sees it: what it was sent, what it reported, and how it is halted to call tasks back."""

from __future__ import annotations

import marshal
import os
import pickle
import signal
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.abc import Report
from rhapsody.backends import wire
from rhapsody.backends.results import decode_value
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Completed, Failure, Stdio
from rhapsody.node.processes import is_stopped

if TYPE_CHECKING:
    import mmap
    import socket
    from collections.abc import Collection, Iterator, Sequence

DONE, FAILED, READY, RUNNING = State.DONE, State.FAILED, State.READY, State.RUNNING
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


class InFlight(NamedTuple):
    """One task that was sent and not reported on."""

    sequence: int
    number: int
    attempt: int
    extra: dict[str, Any]
    items: tuple[int, int] | None


class Chunk(NamedTuple):
    """Tasks for one lane, column by column, as they travel.

    Attributes:
        numbers: Of the tasks.
        attempts: Of each.
        function_ids: Of each; -1 for executables.
        payloads: Of each: a tuple of scalars (the arguments) or bytes (pickled `(args, kwargs)`).
        extras: Of each what few need, or None; None when none has any.
        items: For one array task, the range of its items.
    """

    numbers: list[int]
    attempts: list[int]
    function_ids: list[int]
    payloads: list[Any]
    extras: list[dict[str, Any] | None] | None = None
    items: tuple[int, int] | None = None

    def tasks(self) -> list[InFlight]:
        """Return the tasks of a chunk that was not sent."""
        pairs = zip(self.numbers, self.attempts, strict=True)
        return [InFlight(0, number, attempt, {}, self.items) for number, attempt in pairs]

    def without(self, dropped: Collection[int]) -> Chunk | None:
        """Return the chunk without the tasks at some positions; None when none is left."""
        kept = [index for index in range(len(self.numbers)) if index not in dropped]
        if not kept:
            return None
        return Chunk(
            [self.numbers[index] for index in kept],
            [self.attempts[index] for index in kept],
            [self.function_ids[index] for index in kept],
            [self.payloads[index] for index in kept],
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
    """

    def __init__(self, worker_id: int, lane: Lane) -> None:
        self.worker_id = worker_id
        self.lane = lane
        self.functions: set[int] = set()
        self.pending: list[Chunk] = []
        self.canceled: set[int] = set()
        self.doomed = ""
        self.seen = 0
        self.announced = 0
        self.started_s = time.monotonic()
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

    def take(self, chunk: Chunk) -> bytes:
        """Note a chunk as sent; return the message to send.

        What was read of this worker before must be in the journal: it may forget that now.
        """
        settled = self._segments[0].first + self._segments[0].next - 1 if self._segments else self._next - 1
        first, attempts = self._next, chunk.attempts
        self._segments.append(_Segment(first, chunk))
        self._next += len(chunk.numbers)
        all_equal = attempts.count(attempts[0]) == len(attempts)
        heads = marshal.dumps((chunk.numbers, attempts[0] if all_equal else attempts, chunk.items))
        return wire.frame(("run", first, settled, heads, chunk.function_ids, chunk.payloads, chunk.extras))

    def recall(self, sequence: int, number: int, attempt: int, items: tuple[int, int] | None) -> None:
        """Expect the result of a task that somebody else had sent to the worker."""
        self._segments.append(_Segment(sequence, Chunk([number], [attempt], [], [], None, items)))

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
                report = _decode((number, attempt, started, ended), kind, bytes(source[begin:offset]))
                reports.append(report if segment.items is None else report._replace(items=segment.items))
            segment.next = index + 1
        while segments and segments[0].next >= len(segments[0].numbers):
            segments.popleft()
        return offset

    @staticmethod
    def _take_items(segment: _Segment, times: tuple[int, int], data: bytes, reports: list[Report]) -> None:
        first, count, plain, values, failed = marshal.loads(data)  # noqa: S302 - authenticated
        if segment.items is None or first < segment.items[0]:
            return  # read before, from the page
        number, attempt = segment.numbers[0], segment.attempts[0]
        segment.items = (first + count, segment.items[1])
        if not plain:
            values = _unpickle_items(values, range(first, first + count), failed)
        for index, encoded in failed.items():
            failure = _failure(marshal.loads(encoded)) if isinstance(encoded, bytes) else encoded  # noqa: S302
            reports.append(Report(number, attempt, FAILED, *times, failure=failure, items=(index, index + 1)))
        reports.append(Report(number, attempt, DONE, *times, value=values, items=(first, first + count)))

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


def _decode(head: tuple[int, int, int, int], kind: int, data: bytes) -> Report:
    number, attempt, started, ended = head
    stdio = None
    rich: dict[str, Any] = {}
    if kind == wire.RICH:
        rich = marshal.loads(data)  # noqa: S302 - authenticated
        if "exit_code" in rich or rich.get("stdout") or rich.get("stderr"):
            stdio = Stdio(rich.get("stdout", ""), rich.get("stderr", ""), rich.get("exit_code"))
        if "cause" in rich:
            state = State.CANCELED if rich["cause"] == "canceled" else FAILED
            return Report(number, attempt, state, started, ended, failure=_failure(rich), stdio=stdio)
        kind, data = rich.get("kind", wire.NONE), rich.get("value", b"")
    try:
        value = _value(kind, data, rich)
    except BaseException as exc:  # noqa: BLE001 - the user's __setstate__, or a module that only the worker has
        text = f"its value cannot be read in the session: {type(exc).__name__}: {exc}"
        return Report(number, attempt, FAILED, started, ended, failure=Failure(Cause.RESULT, text, exc), stdio=stdio)
    return Report(number, attempt, DONE, started, ended, value, stdio=stdio)


def _value(kind: int, data: bytes, rich: dict[str, Any]) -> Any:  # noqa: ANN401 - the user's value
    if "completed" in rich:
        return Completed(rich["exit_code"], rich["stdout"], rich["stderr"], rich["completed"])
    if "ranks" in rich:
        return [decode_value(*pair) for pair in rich["ranks"]]
    return decode_value(kind, data)


def _failure(rich: dict[str, Any]) -> Failure:
    exception: BaseException | None = None
    if rich.get("exception"):
        try:
            exception = pickle.loads(rich["exception"])  # noqa: S301 - from a worker that showed the token
        except BaseException:  # noqa: BLE001 - a class that only the worker can import: the text says it all
            exception = None
    return Failure(Cause(rich["cause"]), rich["message"], exception, rich.get("traceback", ""))


def _unpickle_items(values: bytes | Sequence[bytes | None], items: range, failed: dict[int, Any]) -> list[Any]:
    try:
        if isinstance(values, bytes):
            return list(pickle.loads(values))  # noqa: S301 - from a worker that showed the token
        return [None if value is None else pickle.loads(value) for value in values]  # noqa: S301
    except BaseException as exc:  # noqa: BLE001 - the user's __setstate__, or a module that only the worker has
        text = f"its value cannot be read in the session: {type(exc).__name__}: {exc}"
        failed.update((index, Failure(Cause.RESULT, text, exc)) for index in items if index not in failed)
        return [None] * len(items)
