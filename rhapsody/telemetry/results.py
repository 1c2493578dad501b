"""Kept results: what tasks left, so that a resumed run has it without running them again.

Segments `results/000001.kept`, … in the run folder, written like those of the journal and before it: the journal's
record of an end names the frame. `None` is not kept; a value above `LIMIT_BYTES` is not either, and the frame says so.
"""

from __future__ import annotations

import marshal
import os
import pickle
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.errors import JournalError
from rhapsody.model.arguments import SCALARS
from rhapsody.model.outcome import Completed, Stdio
from rhapsody.model.pickling import pickle_value
from rhapsody.telemetry.definitions import plain_text
from rhapsody.telemetry.frames import (
    MAX_PAYLOAD_BYTES,
    Damage,
    Frame,
    Head,
    Kept,
    decode_record,
    encode_frame,
    find_frame,
    read_any_frame,
    read_head,
)
from rhapsody.telemetry.scan import JournalTail, damaged, located, segments
from rhapsody.telemetry.segments import SEGMENT_BYTES, SegmentWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from rhapsody.model.task import Task

SUFFIX = ".kept"
LIMIT_BYTES = 16 << 20
"""Largest pickled value that is kept."""
_FRAME_BYTES = MAX_PAYLOAD_BYTES - LIMIT_BYTES
_STDIO_BYTES = 4096
"""Characters at the end of what a failed task printed that are kept."""
_REASON_CHARS = 500
_FRAMES_REMEMBERED = 8


class Place(NamedTuple):
    """Where a value is kept.

    Attributes:
        frame: Number of the frame, from 1.
        position: In the frame, from 0.
    """

    frame: int
    position: int


class Left(NamedTuple):
    """What a task left that printed something, or failed; what it printed can be read without its value.

    Attributes:
        pickled: Its value; empty for a failed one.
        stdout: What it printed; of a failed one the end.
        stderr: As `stdout`.
        exit_code: Of an executable.
        missing: Why there is no value.
    """

    pickled: bytes
    stdout: str
    stderr: str
    exit_code: int | None
    missing: str = ""

    @classmethod
    def by(cls, task: Task) -> Left:
        """Return what a task left."""
        stdio = task.stdio or Stdio()
        if task.failure is None:
            pickled, missing = _pickled(task.value)
            return cls(pickled, stdio.stdout, stdio.stderr, stdio.exit_code, missing)
        return cls(b"", stdio.stdout[-_STDIO_BYTES:], stdio.stderr[-_STDIO_BYTES:], stdio.exit_code)

    def value(self) -> Any:  # noqa: ANN401 - the user's
        """Return the value.

        Raises:
            ValueMissing: It was not kept, or cannot be read.
        """
        if self.missing:
            raise ValueMissing(self.missing)
        return _loaded(self.pickled) if self.pickled else None


class KeptResults:
    """Writes what tasks left; like the journal's, nothing is written before `commit`.

    Args:
        folder: The run folder.
        count: Segments that are there already.
        index: Frames that are in them.
        segment_bytes: Size from which on a new segment is begun.
    """

    def __init__(self, folder: Path, *, count: int = 0, index: int = 0, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._folder = folder
        self._count = count
        self._index = index
        self._segment_bytes = segment_bytes
        self._segments: SegmentWriter | None = None
        self._on_error: Callable[[], object] = lambda: None
        self._frames: list[bytes] = []

    def keep(self, tasks: Sequence[Task]) -> int:
        """Keep what tasks left; return the number of the frame, 0 when there is nothing to keep.

        Raises:
            OversizeError: It is more than one frame holds, together.
        """
        left = [task.value for task in tasks]
        printed = [task.stdio for task in tasks]
        if printed.count(None) != len(printed):
            left = [_with_stdio(task) for task in tasks]
        elif left[0] is None and left.count(None) == len(left):  # most often; keep_values would need longer to see it
            return 0
        return self.keep_values(left)

    def keep_values(self, values: list[Any]) -> int:
        """Keep values; return and errors as for `keep`."""
        types = set(map(type, values))
        if types <= {type(None)}:
            return 0
        if types <= SCALARS and len(scalars := marshal.dumps(values)) <= LIMIT_BYTES:
            return self._append(Kept(len(values), scalars, [], []))
        pickles: list[bytes] = []
        missing: list[tuple[int, str]] = []
        room = _FRAME_BYTES
        for at, value in enumerate(values):
            data, reason = _pickled(value)
            pickles.append(data)
            if reason:
                missing.append((at, reason))
            room -= len(data) + len(reason.encode())
            if room < 0:
                raise OversizeError
        return self._append(Kept(len(values), b"", pickles, missing))

    def keep_list(self, values: list[Any]) -> int:
        """Keep a list of values as one value; returns 0 when all are None."""
        if set(map(type, values)) <= {type(None)}:
            return 0
        data, reason = _pickled(values)
        return self._append(Kept(1, b"", [data], [(0, reason)] if reason else []))

    def watch_for_errors(self, on_error: Callable[[], object]) -> None:
        """Have `on_error` called, from another thread, when what was written does not come to disk: commit then."""
        self._on_error = on_error
        if self._segments is not None:
            self._segments.watch_for_errors(on_error)

    def commit(self) -> None:
        """Write everything kept so far.

        Raises:
            JournalError: It could not be written; call again when there is room.
        """
        if self._segments is None:
            if not self._frames:
                return
            folder = self._folder / "results"
            self._segments = SegmentWriter(folder, self._segment_bytes, suffix=SUFFIX, count=self._count)
            self._segments.watch_for_errors(self._on_error)
        self._segments.write(self._frames)

    def close(self) -> None:
        """Bring everything to disk and close.

        Raises:
            JournalError: Not everything could be brought to disk.
        """
        if self._segments is not None:
            self._segments.close()

    def _append(self, record: Kept) -> int:
        self._frames.append(encode_frame(self._index, record))
        self._index += 1
        return self._index


class OversizeError(Exception):
    """What shall go into one frame is too much for it; half of it may fit."""


def _with_stdio(task: Task) -> Any:  # noqa: ANN401 - the task's value
    """Return a task's value, with what it printed where that is not part of it."""
    if task.stdio is None or (task.failure is None and isinstance(task.value, Completed)):
        return task.value
    return Left.by(task)


def _pickled(value: object) -> tuple[bytes, str]:
    """Return a value pickled, or nothing and why it is not kept."""
    try:
        data = pickle_value(value)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's __reduce__
        reason = f"its value of type {type(value).__name__} could not be kept: {_said(exc)}"
        return b"", plain_text(reason, _REASON_CHARS)
    if len(data) <= LIMIT_BYTES:
        return data, ""
    limit = f"{LIMIT_BYTES >> 20} MiB"
    return (
        b"",
        f"its value of {len(data):,} bytes was above the {limit} that are kept; return the path of a file instead",
    )


def _said(exc: BaseException) -> str:
    """Return type and text of an exception of the user's."""
    try:
        return f"{type(exc).__name__}: {exc}"
    except Exception:  # noqa: BLE001 - its own __str__
        return type(exc).__name__


class ValueMissing(Exception):  # noqa: N818 - an answer, not a fault
    """A value was not kept, or is damaged; the text says why."""


class KeptReader:
    """Finds kept results again. Only frames that are asked for are read whole.

    Args:
        folder: The run folder.
        on_damage: Called with each damaged place; what is behind it is found all the same.

    Attributes:
        count: Segments that are there.
        index: Index of the next frame.

    Raises:
        JournalError: A file belongs to somebody else, or cannot be read.
    """

    def __init__(self, folder: Path, on_damage: Callable[[JournalTail], object]) -> None:
        self._on_damage = on_damage
        self._places: dict[int, tuple[Path, int]] = {}
        self._expected = 0
        self._decoded: OrderedDict[int, tuple[list[Any], dict[int, str]]] = OrderedDict()
        self._lost: dict[int, str] = {}
        """Frames that cannot be read, with the reason: many tasks may ask for the same one."""
        self._told: set[tuple[Path, int]] = set()
        results = folder / "results"
        self._end = ""
        """Where they break off, if they do."""
        paths = segments(results, SUFFIX) if any(results.glob(f"*{SUFFIX}")) else []
        for path in paths:
            _require_own(path)
            self._look_through(path)
        self.count = len(paths)
        self.index = max(self._places, default=0)

    def _look_through(self, path: Path) -> None:
        """Note where each frame of a segment begins."""
        expected, last = self._expected, 0
        with located(path), path.open("rb") as file:
            while (head := read_head(file)) is not None:
                found: Head | Frame | None = head if isinstance(head, Head) and head.index == expected else None
                found = found or self._look_closely(path, file, last, head.offset)
                if found is None:  # what a crash leaves; whoever looks for more than there is hears of it
                    self._end = f": {path} at offset {head.offset}"
                    break
                self._places[found.index + 1] = path, found.offset
                expected, last = found.index + 1, found.offset
        self._expected = expected

    def _look_closely(self, path: Path, file: BinaryIO, last: int, offset: int) -> Frame | None:
        """Return the next whole frame where a header is not what it should be: the one before may be what is wrong."""
        file.seek(last)
        found = read_any_frame(file)
        if isinstance(found, Frame) and last < offset:
            found = read_any_frame(file)
        if isinstance(found, Damage):
            damage, found = found, find_frame(file, found.offset)
            if found is not None:
                self._tell(path, damage)
        return found

    def _tell(self, path: Path, damage: Damage) -> None:
        if (path, damage.offset) not in self._told:
            self._told.add((path, damage.offset))
            self._on_damage(JournalTail(path.name, damage.offset, damage.reason))

    def read(self, place: Place) -> Any:  # noqa: ANN401 - the user's value, or `Left`
        """Return what is kept at a place.

        Raises:
            ValueMissing: Nothing is; the text says why.
        """
        if place.frame == 0:
            return None
        values, missing = self._frame(place.frame)
        if reason := missing.get(place.position):
            raise ValueMissing(reason)
        if place.position >= len(values):
            raise ValueMissing("its kept value is not where the journal says; the files are not of one run")
        value = values[place.position]
        if not isinstance(value, _Pickle):
            return value
        return _loaded(value.data)

    def plain_values(self, frame: int) -> list[Any]:
        """Return the values of a frame of plain ones; empty where there are others, or they must be looked at."""
        if frame == 0:
            return []
        try:
            values, missing = self._frame(frame)
        except ValueMissing:
            return []
        return values if not missing and not (values and isinstance(values[0], _Pickle)) else []

    def _frame(self, frame: int) -> tuple[list[Any], dict[int, str]]:
        if frame in self._lost:
            raise ValueMissing(self._lost[frame])
        if frame not in self._decoded:
            if len(self._decoded) >= _FRAMES_REMEMBERED:
                self._decoded.popitem(last=False)
            try:
                record = self._record(frame)
            except ValueMissing as exc:
                self._lost[frame] = str(exc)
                raise
            values = marshal.loads(record.scalars) if record.scalars else list(map(_Pickle, record.pickles))  # noqa: S302 - as above
            self._decoded[frame] = values, dict(record.missing)
        return self._decoded[frame]

    def _record(self, frame: int) -> Kept:
        if frame not in self._places:
            raise ValueMissing(f"its kept value is lost: the kept results are damaged or break off{self._end}")
        path, offset = self._places[frame]
        try:
            with located(path, offset), path.open("rb") as file:
                file.seek(offset)
                found = read_any_frame(file)
                if isinstance(found, Frame) and isinstance(record := decode_record(found.payload), Kept):
                    return record
        except JournalError as exc:
            raise ValueMissing(f"its kept value is lost: {exc}") from exc
        damage = found if isinstance(found, Damage) else Damage(offset, "no result stands there")
        self._tell(path, damage)
        raise ValueMissing(f"its kept value is lost: {damaged(path, damage)}")


def _loaded(data: bytes) -> Any:  # noqa: ANN401 - the user's value
    try:
        return pickle.loads(data)  # noqa: S301 - the user's own file, nobody else can write it
    except Exception as exc:  # the user's __setstate__ may raise anything
        raise ValueMissing(f"its kept value cannot be read: {_said(exc)}") from exc


class _Pickle(NamedTuple):
    data: bytes


def _require_own(path: Path) -> None:
    """Refuse a file that somebody else may have written: it will be unpickled.

    Raises:
        JournalError: It is one.
    """
    with located(path):
        status = path.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise JournalError(f"{path} can be written by others, so its values are not read; chmod go-w it if it is yours")
