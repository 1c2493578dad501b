"""What happens to the nodes of a job: `deploy/nodes/events` of the run folder, a line of JSON each."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Event(msgspec.Struct, frozen=True):
    """What happened to a node.

    Attributes:
        time_ns: When, on rank 0's clock since 1970.
        event: joined: its agent is there; leaving: it was told to end; lost: it is gone, with all that ran on it, or
            cannot be reached, and then ends all that by itself.
        rank: Of the node.
        name: Of the node.
        reason: For people; empty for joined.
    """

    time_ns: int
    event: Literal["joined", "leaving", "lost"]
    rank: int
    name: str
    reason: str = ""


class EventLog:
    """Appends events to a file.

    Args:
        path: Of the file.
        say: Tells the user what cannot be written.

    Raises:
        OSError: The file cannot be opened.
    """

    def __init__(self, path: Path, say: Callable[[str], object]) -> None:
        self._say = say
        self._path = path
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, event: Literal["joined", "leaving", "lost"], rank: int, name: str, reason: str = "") -> None:
        """Append one event, with a single write: readers see whole lines."""
        line = msgspec.json.encode(Event(time.time_ns(), event, rank, name, reason)) + b"\n"
        try:
            os.write(self._descriptor, line)
        except OSError as exc:  # a full disk does not end the job
            self._say(f"cannot write {self._path}: {exc.strerror}; not written: {line.decode().strip()}")

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
