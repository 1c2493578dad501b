"""What a pool and its workers say to each other.

Two ways lead from a worker to its pool: a Unix socket, and a page of shared memory that outlives the worker's death.
The worker writes each result into the page's outbox first and sends the outbox when a chunk ends, so what was finished
before a kill is never lost, and exactly the task that was being run can be named.

Both ends are the same Python, so `marshal` carries lists of scalars; what belongs to the user is inside it as bytes.
"""

from __future__ import annotations

import marshal
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mmap

PAGE_BYTES = 1 << 18
OUTBOX = 128
"""Offset of the outbox in the page; eight-byte words come before it."""

# Words of the page, each written by one side only.
CURRENT = 0
"""Worker: sequence number of the task that was started last."""
STARTED = 1
"""Worker: when that was, nanoseconds on the session's clock."""
SKIP_FROM = 2
"""Pool, while the worker is stopped: first sequence number that was called back; see `GONE`."""
SKIP_UNTIL = 3
"""Pool, while the worker is stopped: end of the range that was called back; see `GONE`."""
COMMITTED = 4
"""Worker: bytes of the outbox that hold finished records."""
ITEM = 5
"""Worker: index of the array item being run; `NONE_YET` outside of arrays and before the first one."""
GONE = 6
"""Not 0 once the pool is gone; whoever learns of it, guardian or worker, then lets everything be skipped."""
NOTED = 7
"""Worker: bytes of the notebook's first buffer that are valid; the next word: of the second one."""
SKIPPED = 9
"""Worker: sequence number of the task that it skipped last."""
UNNOTED = 10
"""Worker: not 0 once its notebook could not be written."""

NONE_YET = (1 << 64) - 1
"""In a word: no number that is used."""

RECORD = struct.Struct("<QqqIB3x")
"""Head of a record: sequence number, started_ns, ended_ns, bytes that follow, kind."""

# Kinds of records.
NONE = 0
"""The value is None; nothing follows."""
SCALARS = 1
"""The value follows, marshalled."""
PICKLED = 2
"""The value follows, pickled."""
RICH = 3
"""A marshalled dict follows: output, exit code, failure, and the value as bytes."""
ITEMS = 4
"""Values of some items of an array task follow; more will come."""
LAST_ITEMS = 5
"""Values of the last items of an array task's chunk follow."""

FRAME = struct.Struct("<I")
"""Head of a message to a worker: bytes that follow."""

TOKEN_BYTES = 32
HELLO = struct.Struct(f"<{TOKEN_BYTES}sIQ")
"""First message of a worker: token, process id, worker id; the page's descriptor travels with it."""

SCALAR_TYPES = frozenset({int, float, bool, str, bytes, type(None), complex})
"""Types whose values may travel marshalled: immutable, and the same on both sides."""

NO_REFERENCES = 2
"""The version of marshal's format that looks for no object that comes twice: quicker, where there is none, or small."""

LONG_BYTES = 1 << 16
"""A longer text or bytes among the arguments is no plain scalar."""

VALUE_LIMIT_BYTES = 128 << 20
"""Largest pickled argument or result that goes through the session; more belongs into a file or a data store."""


class PoolGoneError(ConnectionError):
    """The pool is gone: what was being run for it has no outcome."""


def page_words(page: mmap.mmap) -> memoryview:
    """Return the page's words before the outbox."""
    return memoryview(page)[:OUTBOX].cast("Q")


def frame(message: tuple[Any, ...]) -> bytes:
    """Return a message to a worker with its length in front."""
    body = marshal.dumps(message)
    return FRAME.pack(len(body)) + body


def columns(heads: bytes, body: bytes) -> tuple[list[int], list[int], list[Any]]:
    """Return numbers, function ids and payloads of a chunk that has these heads and this body."""
    numbers: list[int] = marshal.loads(heads)[0]  # noqa: S302 - from the session
    function_ids, payloads = marshal.loads(body)  # noqa: S302 - as above
    return numbers, [function_ids] * len(numbers) if type(function_ids) is int else function_ids, payloads


def are_scalars(values: tuple[Any, ...]) -> bool:
    """Return whether all values may travel marshalled; long ones are pickled, where sizes are counted."""
    if not SCALAR_TYPES.issuperset(map(type, values)):
        return False
    for value in values:  # noqa: SIM110 - once per task: half as long as any()
        if (type(value) is str or type(value) is bytes) and len(value) > LONG_BYTES:
            return False
    return True
