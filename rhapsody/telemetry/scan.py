"""Walking through the files of a journal, frame by frame: what is whole, what breaks off, what is damaged."""

from __future__ import annotations

import re
from contextlib import contextmanager
from os import SEEK_END
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from rhapsody.errors import JournalError
from rhapsody.telemetry.frames import Damage, Frame, find_frame, read_any_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import BinaryIO

_SEGMENT_NAME = re.compile(r"(\d{6,})\.\w+")


class JournalTail(NamedTuple):
    """Where a journal breaks off, or is damaged.

    Attributes:
        segment: File name of the segment.
        offset: Byte in it up to which all is whole.
        reason: What is found there.
    """

    segment: str
    offset: int
    reason: str


class Scan:
    """The frames of a folder of segments, in order. Iterate again to get those that were written since.

    Args:
        folder: Holds the segments.
        suffix: Of their names.
        on_damage: Called with damage other than at the end, and with the frames behind it the scan goes on; None: an
            error is raised there.

    Attributes:
        tail: Where the files broke off at the last look; None if they ended with a whole frame.
        index: Index of the next frame.
    """

    def __init__(
        self, folder: Path, suffix: str = ".log", on_damage: Callable[[JournalTail], object] | None = None
    ) -> None:
        self._folder = folder
        self._suffix = suffix
        self._on_damage = on_damage
        self._segment = 1
        self._offset = 0
        self.index = 0
        self.tail: JournalTail | None = None

    def __iter__(self) -> Iterator[tuple[Path, Frame]]:
        """Yield path and frame until nothing whole follows.

        Raises:
            JournalError: There is no segment, one is missing, or one is damaged.
        """
        paths = segments(self._folder, self._suffix)
        self.tail = None
        while True:
            path = paths[self._segment - 1]
            is_last = self._segment == len(paths)
            stop = None if is_last else _first_index(paths[self._segment])
            with located(path), path.open("rb") as file:
                while (found := self._next(path, file, stop)) is not None:
                    if isinstance(found, Damage):
                        self.tail = self.tail or JournalTail(path.name, found.offset, found.reason)
                        break
                    self.tail = None  # what broke off in the segment before stands here once more
                    yield path, found
            if is_last:
                break
            if stop is not None and stop > self.index:
                self._tell(path, Damage(self._offset, f"frames {self.index} to {stop - 1} are missing"))
                self.index = stop
            self._segment += 1
            self._offset = 0
        if not self.index and self.tail is None:
            self.tail = JournalTail(paths[0].name, 0, "the journal is empty")

    def _next(self, path: Path, file: BinaryIO, stop: int | None) -> Frame | Damage | None:
        """Return the next frame of a segment that counts, where it breaks off, or None at its end.

        Args:
            path: Of the segment.
            file: The segment.
            stop: The index that the next segment begins with, if that is known: this one's frames count up to there.
        """
        if stop is not None and self.index >= stop:
            return None
        file.seek(self._offset)
        found = read_any_frame(file)
        while isinstance(found, Frame) and found.index < self.index and self._offset == 0:
            found = read_any_frame(file)  # written once more after an error: it was read in the segment before
        if found is None:
            return None
        if not (isinstance(found, Frame) and found.index == self.index):
            found = self._behind(path, file, found, stop)
        if isinstance(found, Frame):
            self.index = found.index + 1
            self._offset = file.tell()
        return found

    def _behind(self, path: Path, file: BinaryIO, found: Frame | Damage, stop: int | None) -> Frame | Damage | None:
        """Tell of damage that has whole frames behind it; return the next one that counts, or what breaks off."""
        if isinstance(found, Frame):
            reason = f"frame {found.index} stands where frame {self.index} should: frames are missing"
            damage = Damage(found.offset, reason)
        else:
            damage = found
        frame = find_frame(file, damage.offset)
        if frame is None:
            return damage
        self._tell(path, damage)
        while frame is not None and frame.index < self.index:
            frame = find_frame(file, frame.offset + 1)
        if frame is None or (stop is not None and frame.index >= stop):
            self._offset = file.seek(0, SEEK_END)
            return None
        return frame

    def _tell(self, path: Path, damage: Damage) -> None:
        if self._on_damage is None:
            raise damaged(path, damage)
        self._on_damage(JournalTail(path.name, damage.offset, damage.reason))


def segments(folder: Path, suffix: str = ".log") -> list[Path]:
    """Return the segments in a folder, in order.

    Raises:
        JournalError: There is none, or one is missing between others.
    """
    names = sorted(path.name for path in folder.glob(f"*{suffix}") if _SEGMENT_NAME.fullmatch(path.name))
    if not names:
        raise JournalError(f"there is no journal in {folder}; give the folder of a run that was journaled")
    wanted = [f"{number:06d}{suffix}" for number in range(1, len(names) + 1)]
    for name in wanted:
        if name not in names:
            raise JournalError(f"{folder / name} is missing, but {names[-1]} is there")
    return [folder / name for name in wanted]


def _first_index(path: Path) -> int | None:
    with located(path), path.open("rb") as file:
        frame = read_any_frame(file)
    return frame.index if isinstance(frame, Frame) else None


@contextmanager
def located(path: Path, offset: int = 0) -> Iterator[None]:
    """Say of what goes wrong where it did."""
    try:
        yield
    except OSError as exc:
        raise JournalError(f"cannot read {path}: {exc.strerror}") from exc
    except (msgspec.DecodeError, ValueError) as exc:
        raise damaged(path, Damage(offset, str(exc))) from exc


def damaged(path: Path, damage: Damage) -> JournalError:
    """Return the error that says where a journal is damaged."""
    return JournalError(f"the journal is damaged: {path} at offset {damage.offset}: {damage.reason}")
