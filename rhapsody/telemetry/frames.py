"""How the journal looks on disk: frames of one record each.

A frame is a header (magic, payload length, index, crc32; little endian) and a payload: one record in msgpack. The
checksum covers the header too. The index counts the frames of a run from 0 over all segments, so that a lost or doubled
one is noticed. A record holds the events of a whole batch in columns; a column whose values are all equal, or follow
one another, is a single number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import SEEK_END
from struct import Struct
from typing import TYPE_CHECKING, Annotated, BinaryIO, NamedTuple
from zlib import crc32

import msgspec

from rhapsody.model.event import State
from rhapsody.model.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA = 2
"""Version of the records; a reader refuses others."""
MAX_EVENTS = 16_384
"""Tasks in one frame at most, so that neither side needs much memory; each has one event or two."""
MAX_PAYLOAD_BYTES = 64 << 20
STATES_WITH_DETAIL = frozenset({State.FAILED, State.CANCELED, State.UNKNOWN})

_MAGIC = b"\xa6RJ\x02"
_HEAD = Struct("<4sIQ")
_CRC = Struct("<I")
HEADER_BYTES = _HEAD.size + _CRC.size
_WINDOW_BYTES = 1 << 20

Count = Annotated[int, msgspec.Meta(ge=0)]
Range = tuple[Count, Count]
SlotRow = tuple[Count, tuple[Count, ...], tuple[Count, ...]]
"""Node, cores and GPUs of one rank."""


class Record(msgspec.Struct, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of what one frame holds."""


class Run(Record, tag=0):
    """The first record of each session of a run, and only that, at the beginning of a segment.

    `run` says what session it is, as JSON (which can say any text of Python's); `session` counts from 1. Task numbers
    are unique in a session. Frames of an older segment with the index of this one or a higher one do not count.
    """

    schema: int
    run: str
    session: Annotated[int, msgspec.Meta(ge=1)]


class Definition(Record):
    """What many tasks have in common, written once."""

    kind: str
    label: str
    priority: int
    ranks: int
    cores_per_rank: int
    gpus_per_rank: int
    memory_bytes: int
    ranks_per_node: int | None
    exclusive: bool
    mpi: bool
    code: bytes = b""

    @classmethod
    def of(cls, kind: str, label: str, priority: int, asked: Resources, code: bytes = b"") -> Definition:
        """Return what is written of tasks that ask for these resources and run this code."""
        return cls(
            kind=kind,
            label=label,
            priority=priority,
            ranks=asked.ranks,
            cores_per_rank=asked.cores_per_rank,
            gpus_per_rank=asked.gpus_per_rank,
            memory_bytes=asked.memory_bytes,
            ranks_per_node=asked.ranks_per_node,
            exclusive=asked.exclusive,
            mpi=asked.mpi,
            code=code,
        )

    def resources(self) -> Resources:
        """Return the request again."""
        return Resources(
            ranks=self.ranks,
            cores_per_rank=self.cores_per_rank,
            gpus_per_rank=self.gpus_per_rank,
            memory_per_rank=self.memory_bytes,
            ranks_per_node=self.ranks_per_node,
            exclusive=self.exclusive,
            mpi=self.mpi,
        )


class Accepted(Record, tag=1):
    """Tasks that entered WAITING; their attempt is 0.

    `definitions` get the ids from `first_definition` on, in place of older ones with the same ids. `runs` says from
    which position on tasks have which definition; `uids` and `lengths` give, by position, the uids that users chose and
    the items of array tasks. `ready`: after all had entered WAITING, they entered READY.

    `inputs` are the tasks' fingerprints of arguments, by which a resumed run finds them: one for each; or the arguments
    of all, marshalled as one list; empty bytes where no task has any. `dependencies` gives, by position, the numbers of
    the tasks that a task depends on.
    """

    count: int
    time_ns: int
    numbers: Count | list[Count]
    first_definition: Count
    definitions: list[Definition]
    runs: list[Range]
    uids: list[tuple[Count, str]]
    lengths: list[Range]
    ready: bool
    inputs: bytes | list[bytes] = b""
    dependencies: list[tuple[Count, list[Count]]] = []

    def __post_init__(self) -> None:
        _require_count(self.count)
        _require_length("numbers", self.numbers, self.count)
        _require_length("inputs", self.inputs, self.count)
        starts = [start for start, _ in self.runs]
        if starts[:1] != [0] or sorted(set(starts)) != starts:
            raise ValueError("the runs of definitions do not begin at 0 and ascend")
        named = (at for column in (self.uids, self.lengths, self.dependencies) for at, _ in column)
        if max(starts + list(named)) >= self.count:
            raise ValueError(f"something is said of more than {self.count} tasks")


class Entered(Record, tag=2):
    """Tasks that entered a state; `details` is empty or has one text per task.

    `kept` names the frame of kept results that holds what they left, in their order: 1 for the first frame; 0 for none.
    """

    count: int
    state: State
    numbers: Count | list[Count]
    attempts: Count | list[Count]
    times_ns: int | list[int]
    details: list[str]
    kept: Count = 0

    def __post_init__(self) -> None:
        _require_count(self.count)
        _require_length("numbers", self.numbers, self.count)
        _require_length("attempts", self.attempts, self.count)
        _require_length("times", self.times_ns, self.count)
        if self.details:
            _require_length("details", self.details, self.count)


class Ran(Record, tag=5):
    """Tasks that entered RUNNING, then those tasks that entered DONE: two events of each. `kept` as in `Entered`."""

    count: int
    numbers: Count | list[Count]
    attempts: Count | list[Count]
    started_ns: list[int]
    ended_ns: list[int]
    kept: Count = 0

    def __post_init__(self) -> None:
        _require_count(self.count)
        _require_length("numbers", self.numbers, self.count)
        _require_length("attempts", self.attempts, self.count)
        _require_length("starts", self.started_ns, self.count)
        _require_length("ends", self.ended_ns, self.count)


class Placed(Record, tag=3):
    """Tasks that entered PLACED, in groups that share a placement.

    `sizes` counts the tasks of each group; empty: all have one. `ranges` has each group's range of items or None;
    empty: None for all.
    """

    count: int
    time_ns: int
    numbers: Count | list[Count]
    attempts: Count | list[Count]
    slots: Sequence[tuple[SlotRow, ...]]
    sizes: list[Count]
    ranges: list[Range | None]

    def __post_init__(self) -> None:
        _require_count(self.count)
        _require_length("numbers", self.numbers, self.count)
        _require_length("attempts", self.attempts, self.count)
        _require_length("groups", self.sizes or self.slots, len(self.slots))
        if (sum(self.sizes) if self.sizes else len(self.slots)) != self.count:
            raise ValueError(f"the placements are not those of {self.count} tasks")
        if self.ranges:
            _require_length("ranges", self.ranges, len(self.slots))


class ItemsEntered(Record, tag=4):
    """A range of an array task's items that entered a state; the values of DONE ones are one list in the frame `kept`.

    DONE leaves out those items of the range that entered FAILED or UNKNOWN before.
    """

    state: State
    time_ns: int
    number: Count
    attempt: Count
    items: Range
    detail: str
    kept: Count = 0


class Restored(Record, tag=6):
    """Tasks that were DONE in an earlier session, or items of array tasks, and are DONE in this one without running.

    `ranges` has each one's range of items or None; empty: None for all. `kept` names the frames of kept results, and
    `positions` where in them the values are.
    """

    count: int
    time_ns: int
    numbers: Count | list[Count]
    attempts: Count | list[Count]
    ranges: list[Range | None]
    kept: Count | list[Count]
    positions: Count | list[Count]

    def __post_init__(self) -> None:
        _require_count(self.count)
        for name in ("numbers", "attempts", "kept", "positions"):
            _require_length(name, getattr(self, name), self.count)
        if self.ranges:
            _require_length("ranges", self.ranges, self.count)


class Kept(Record, tag=7):
    """What tasks left, in a file of kept results: their values, and what they printed.

    `scalars` are plain values, marshalled as one list; or `pickles` has one for each. `missing` says, by position, why
    there is none.
    """

    count: int
    scalars: bytes
    pickles: list[bytes]
    missing: list[tuple[Count, str]]

    def __post_init__(self) -> None:
        _require_count(self.count)
        if not self.scalars:
            _require_length("pickles", self.pickles, self.count)


AnyRecord = Run | Accepted | Entered | Placed | ItemsEntered | Ran | Restored | Kept

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(AnyRecord)


def _require_count(count: int) -> None:
    if not 1 <= count <= MAX_EVENTS:
        raise ValueError(f"a frame of {count} events; it holds 1 to {MAX_EVENTS}")


def _require_length(what: str, column: object, count: int) -> None:
    if isinstance(column, list) and len(column) != count:
        raise ValueError(f"{len(column)} {what} where there must be {count}")


def encode_frame(index: int, record: AnyRecord) -> bytes:
    """Return the bytes of one frame.

    Raises:
        ValueError: It would be too large to be read back.
    """
    payload = _encode(record)
    if len(payload) > MAX_PAYLOAD_BYTES:
        name = type(record).__name__
        raise ValueError(f"a journal frame {name!r} of {len(payload)} bytes; at most {MAX_PAYLOAD_BYTES} are allowed")
    head = _HEAD.pack(_MAGIC, len(payload), index)
    return b"".join((head, _CRC.pack(crc32(payload, crc32(head))), payload))


def decode_record(payload: bytes) -> AnyRecord:
    """Return the record of a frame whose checksum was right.

    Raises:
        msgspec.DecodeError: It is none, or its columns do not fit one another.
    """
    record: AnyRecord = _decoder.decode(payload)
    return record


@dataclass(slots=True)
class Frame:
    """A whole frame, checksum verified."""

    offset: int
    index: int
    payload: bytes


class Damage(NamedTuple):
    """A place where a frame should begin, and none that is whole does."""

    offset: int
    reason: str


def find_frame(file: BinaryIO, offset: int) -> Frame | None:
    """Return the first whole frame, of any index, that begins at `offset` or behind it; None if there is none."""
    for start in _magic_offsets(file, offset):
        file.seek(start)
        if isinstance(found := read_any_frame(file), Frame):
            return found
    return None


@dataclass(slots=True)
class Head:
    """The header of a frame whose payload was not read."""

    offset: int
    index: int


@dataclass(slots=True)
class _Header:
    offset: int
    length: int
    index: int
    data: bytes


def read_head(file: BinaryIO) -> Head | Damage | None:
    """Return the header of the frame at the file's position, or what is wrong with it; None at the end of the file.

    The file stands behind the frame afterwards, if it is as long as it should be.
    """
    found = _read_header(file)
    if not isinstance(found, _Header):
        return found
    end = found.offset + HEADER_BYTES + found.length
    if file.seek(0, SEEK_END) < end:
        return Damage(found.offset, f"a frame of {found.length} bytes breaks off")
    file.seek(end)
    return Head(found.offset, found.index)


def read_any_frame(file: BinaryIO) -> Frame | Damage | None:
    """Return the frame at the file's position, or what is wrong with it; None at the end of the file.

    The file stands behind the frame afterwards, if it was whole.
    """
    found = _read_header(file)
    if not isinstance(found, _Header):
        return found
    payload = file.read(found.length)
    if len(payload) < found.length:
        return Damage(found.offset, f"a frame of {found.length} bytes breaks off after {len(payload)}")
    if _CRC.unpack_from(found.data, _HEAD.size)[0] != crc32(payload, crc32(found.data[: _HEAD.size])):
        return Damage(found.offset, "the checksum of a frame is wrong")
    return Frame(found.offset, found.index, payload)


def _read_header(file: BinaryIO) -> _Header | Damage | None:
    offset = file.tell()
    header = file.read(HEADER_BYTES)
    if not header:
        return None
    if len(header) < HEADER_BYTES:
        return Damage(offset, "the header of a frame breaks off")
    magic, length, index = _HEAD.unpack_from(header)
    if magic != _MAGIC or length > MAX_PAYLOAD_BYTES:
        return Damage(offset, "no frame begins here")
    return _Header(offset, length, index, header)


def _magic_offsets(file: BinaryIO, offset: int) -> Iterator[int]:
    while True:
        file.seek(offset)
        window = file.read(_WINDOW_BYTES)
        if len(window) < HEADER_BYTES:
            return
        at = window.find(_MAGIC)
        while at >= 0:
            yield offset + at
            at = window.find(_MAGIC, at + 1)
        offset += len(window) - len(_MAGIC) + 1  # one may lie across the border of two windows
