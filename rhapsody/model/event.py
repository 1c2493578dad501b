"""States of a task and the events that lead from one to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """Where a task is on its way; the last four are final."""

    NEW = "NEW"
    WAITING = "WAITING"
    READY = "READY"
    PLACED = "PLACED"
    RUNNING = "RUNNING"
    DONE = "DONE"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    UNKNOWN = "UNKNOWN"

    @property
    def is_final(self) -> bool:
        """Whether nothing follows."""
        return self in _FINAL


_FINAL = (State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN)


class Event(NamedTuple):
    """One change of one task's state, as the journal keeps it.

    Attributes:
        seq: Position in the run's total order, from 0.
        time_ns: Nanoseconds since the epoch on the session's clock, stamped where it happened.
        uid: The task's uid.
        attempt: Number of the attempt, from 1; 0 before the first launch.
        state: The state entered.
        items: Half-open range of an array task's items that the event speaks of, or None.
        slots: For PLACED, one `(node, cores, gpus)` per rank; else empty.
        detail: For FAILED, CANCELED and UNKNOWN, why; else empty.
    """

    seq: int
    time_ns: int
    uid: str
    attempt: int
    state: State
    items: tuple[int, int] | None = None
    slots: tuple[tuple[int, tuple[int, ...], tuple[int, ...]], ...] = ()
    detail: str = ""
