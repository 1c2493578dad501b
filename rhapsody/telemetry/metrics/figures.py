"""What is known of one session of a run: all that its metrics are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.model.event import State
from rhapsody.telemetry.metrics.width import Presence

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

    from rhapsody.telemetry.metrics.width import Stretches

STAGES = ("submitted_ready", "ready_placed", "placed_running", "running_done")
"""Of the way of a task."""


@dataclass(slots=True)
class Family:
    """Tasks that have kind, label and request in common; items of array tasks count each.

    Attributes:
        kind: `task`, `map`, …; empty where the journal's record of them is lost.
        label: What runs; empty for those that share a family because there are too many labels.
        type_name: As in `Resources.task_type`; empty for those that hold no cores.
        cores: Of each, over all its ranks.
        gpus: Of each, over all its ranks.
        accepted: How many there are.
        runs: How often one of them ran, attempts that failed and those under way included.
        busy_ns: How long they ran.
    """

    kind: str = ""
    label: str = ""
    type_name: str = ""
    cores: int = 0
    gpus: int = 0
    accepted: int = 0
    runs: int = 0
    busy_ns: int = 0
    presence: Presence = field(default_factory=Presence, repr=False)

    def ran(self, start_ns: int, end_ns: int, count: int) -> None:
        """Take the time in which items of an array task ran, one after the other."""
        self.ran_all((start_ns,), (end_ns,))
        self.runs += count - 1

    def ran_all(self, starts: Sequence[int], ends: Sequence[int]) -> None:
        """Take the times that some ran; no end is before its start."""
        self.runs += len(starts)
        self.busy_ns += sum(ends) - sum(starts)
        if self.type_name:
            self.presence.add(starts, ends)


class Failures(NamedTuple):
    """Tasks that failed for one cause; items of array tasks count each.

    Attributes:
        tasks: How many.
        example: What one of them said; empty if nothing is known.
        example_uid: Which one.
    """

    tasks: int
    example: str
    example_uid: str


@dataclass(slots=True)
class SessionFigures:
    """What a session's journal says so far; times are nanoseconds since the epoch.

    Attributes:
        session: Its number.
        run: What it was described with.
        begin_ns: When the first task was submitted; None without tasks.
        delivered_ns: When the last end of a task was delivered; None before.
        until_ns: The last end of a task, or while some have not ended, the last event; None without either.
        last_ns: The last event; 0 without any.
        states: Tasks by state; items of array tasks count each, services do not.
        services: Services by state.
        restored: Tasks that were DONE in an earlier session and did not run in this one.
        stages: For each stage, how many tasks went through it and the sum of their times.
        families: All there are.
        types: When tasks of each type were running.
        core_ns: Cores times the time that tasks were running on them.
        gpu_ns: The same for GPUs.
        arrivals: When tasks entered RUNNING for the first time.
        item_arrivals: When items of array tasks did, and how many.
        decisions: When model requests were issued.
        lags: For answers of models, the time until the first task that depends on it was running.
        failures: By cause; None where it is not known.
    """

    session: int
    run: dict[str, Any]
    begin_ns: int | None
    delivered_ns: int | None
    until_ns: int | None
    last_ns: int
    states: dict[State, int]
    services: dict[State, int]
    restored: int
    stages: dict[str, tuple[int, int]]
    families: list[Family]
    types: dict[str, Stretches]
    core_ns: int
    gpu_ns: int
    arrivals: array[int]
    item_arrivals: list[tuple[int, int]]
    decisions: array[int]
    lags: list[int]
    failures: dict[str | None, Failures]

    @property
    def done(self) -> int:
        """Tasks that ran and were done in this session."""
        return self.states.get(State.DONE, 0) - self.restored

    @property
    def window_ns(self) -> int:
        """Length of the time from the first submission until the last end."""
        if self.begin_ns is None or self.until_ns is None:
            return 0
        return max(0, self.until_ns - self.begin_ns)
