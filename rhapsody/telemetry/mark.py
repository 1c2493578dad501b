"""How much the journal held at last: a small file beside it, by which a journal that was cut off is noticed.

It is written behind the journal and never waited for, so it never claims more than was written.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

NAME = "written"
EVERY_NS = 1_000_000
"""A write for each commit would cost a single task a tenth of its way."""


class Extent(NamedTuple):
    """How far a journal goes.

    Attributes:
        frames: That were written.
        highest: Highest number of a task that was accepted in the session.
    """

    frames: int
    highest: int


class Mark:
    """Keeps the extent of one journal.

    Args:
        folder: Of the journal.
    """

    def __init__(self, folder: Path) -> None:
        self._extent = Extent(0, 0)
        self._written_ns = 0
        self._file = -1
        with suppress(OSError):  # of a file system that fails the journal tells
            self._file = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, extent: Extent) -> None:
        """Note how far the journal goes, once in a millisecond at most."""
        self._extent = extent
        now_ns = time.monotonic_ns()
        if now_ns - self._written_ns >= EVERY_NS:
            self._written_ns = now_ns
            self._note()

    def close(self) -> None:
        """Note how far it goes in the end; may be called again."""
        if self._file >= 0:
            self._note()
            os.close(self._file)
            self._file = -1

    def _note(self) -> None:
        with suppress(OSError):
            os.pwrite(self._file, b"%020d %020d\n" % self._extent, 0)


def read_extent(folder: Path) -> Extent:
    """Return how far the journal in a folder went at least; zeros when that is not known."""
    try:
        frames, highest = (folder / NAME).read_bytes().split()
        return Extent(int(frames), int(highest))
    except (OSError, ValueError):
        return Extent(0, 0)
