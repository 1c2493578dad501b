"""How a run is: from its run.json, its lease and its journal alone, without a connection to it.

`RunWatcher` looks again and again; each look reads only what was written since. `glance` is for many runs.
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rhapsody.errors import JournalError, SpecError
from rhapsody.model.event import State
from rhapsody.node.processes import started_at
from rhapsody.services.endpoints import read_endpoints
from rhapsody.services.record import read_records
from rhapsody.session.lease import Holder, local_boot, read_holder
from rhapsody.telemetry.reader import JournalReader
from rhapsody.telemetry.tally import OneSession, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rhapsody.services.endpoints import Endpoint
    from rhapsody.services.record import ServiceRecord
    from rhapsody.telemetry.reader import JournalTail
    from rhapsody.telemetry.tally import OneCause, OneKind

_CLOCK_SLACK_S = 5.0
"""Between two readings of when a process started."""


class Condition(StrEnum):
    """What is the matter with a run."""

    SUBMITTED = "SUBMITTED"
    """A batch job is to run it, and has not begun to."""
    RUNNING = "RUNNING"
    ENDED = "ENDED"
    CRASHED = "CRASHED"
    UNREACHABLE = "UNREACHABLE"
    """Whether it still runs cannot be told from here."""


_OVER = frozenset({Condition.ENDED, Condition.CRASHED})


@dataclass(frozen=True)
class RunStatus:
    """What one look at a run found.

    Attributes:
        run_dir: The run folder.
        condition: Whether it runs.
        why: One line on how `condition` is known; empty where there is nothing to say.
        holder: The process that runs it, or did last; None where nothing tells.
        description: What `run.json` says, else the journal's beginning.
        counts: Tasks of the last session by state; items of array tasks count each.
        rate: Tasks done per second lately; 0 unless it runs.
        running: What runs, or was running when it crashed.
        failures: Why tasks failed, the most frequent cause first.
        sessions: Of the run: the first, and one for each time that it was resumed.
        last_event_ns: When something happened last; 0 if nothing did.
        journaled: Whether there is a journal, and it was read.
        damage: Where the journal is damaged, with file and offset.
        tail: Where it breaks off, as a crash leaves it; empty where it does not.
        services: What of the run can be reached, by name.
        kept: How its services are, by name; those that can be reached are among them, except what serves on its own.
    """

    run_dir: Path
    condition: Condition
    why: str
    holder: Holder | None
    description: Mapping[str, Any]
    counts: Mapping[State, int] = field(default_factory=dict)
    rate: float = 0.0
    running: tuple[OneKind, ...] = ()
    failures: tuple[OneCause, ...] = ()
    sessions: tuple[OneSession, ...] = ()
    last_event_ns: int = 0
    journaled: bool = False
    damage: tuple[str, ...] = ()
    tail: str = ""
    services: tuple[Endpoint, ...] = ()
    kept: tuple[ServiceRecord, ...] = ()

    @property
    def uid(self) -> str:
        """The run's uid: the run folder's name."""
        return self.run_dir.name

    @property
    def is_over(self) -> bool:
        """Whether it surely runs no more."""
        return self.condition in _OVER

    @property
    def total(self) -> int:
        """Tasks in whatever state."""
        return sum(self.counts.values())

    @property
    def started_ns(self) -> int:
        """When its first session began; 0 where nothing tells."""
        return self.sessions[0].began_ns if self.sessions else _whole(self.description.get("started_ns"))

    @property
    def ended_ns(self) -> int:
        """When it ended, for a crashed run when something happened last; 0 for others, or where nothing tells."""
        if self.condition is Condition.ENDED:
            return _whole(self.description.get("ended_ns")) or self.last_event_ns
        return self.last_event_ns if self.condition is Condition.CRASHED else 0

    @property
    def exit_code(self) -> int | None:
        """Of the command that ran it; None where nothing tells."""
        code = self.description.get("exit_code")
        return code if self.condition is Condition.ENDED and isinstance(code, int) else None

    @property
    def interrupted(self) -> bool:
        """Whether it was ended by Ctrl-C, a signal or `rhapsody cancel`."""
        return self.condition is Condition.ENDED and bool(self.description.get("interrupted"))

    @property
    def campaign(self) -> str:
        """Path of the campaign file; empty for scripts and notebooks."""
        return str(self.description.get("campaign") or "")

    @property
    def may_go_on(self) -> bool:
        """Whether it is over, something is left undone, and `rhapsody run --resume` can do it."""
        left = self.condition is Condition.CRASHED or any(state is not State.DONE for state in self.counts)
        return self.is_over and left and bool(self.campaign) and (self.run_dir / "journal").is_dir()

    @property
    def time_left_s(self) -> float | None:
        """Seconds until its allocation ends; None unless it runs and that is known."""
        deadline = self.description.get("deadline")
        if self.condition is not Condition.RUNNING or not isinstance(deadline, int | float):
            return None
        return max(0.0, deadline - time.time())


class RunWatcher:
    """Looks at one run.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._damage: dict[str, None] = {}
        self._reader = JournalReader(run_dir, self._note_damage)
        self._tally = Tally(self._reader.uid_of)

    def look(self) -> RunStatus:
        """Return how the run is now.

        Raises:
            SpecError: The run folder cannot be read; the text names the file.
        """
        holder = read_holder(self._run_dir)  # before what the holder writes before it gives it back
        description = read_description(self._run_dir)
        journaled = self._read_journal()
        description = description or self._tally.run
        holder = holder or _holder_from(description)
        condition, why = _condition(holder, description)
        tally = self._tally
        tail = self._reader.tail
        return RunStatus(
            run_dir=self._run_dir,
            condition=condition,
            why=why,
            holder=holder,
            description=description,
            counts=tally.counts if tally.sessions else _counts_from(description),
            rate=tally.rate(time.time_ns()) if condition is Condition.RUNNING else 0.0,
            running=tuple(tally.running) if condition is not Condition.ENDED else (),
            failures=tuple(tally.failures),
            sessions=tuple(tally.sessions),
            last_event_ns=tally.last_ns,
            journaled=journaled,
            damage=tuple(self._damage),
            tail=_place(tail) if tail is not None and condition is Condition.CRASHED else "",
            services=tuple(read_endpoints(self._run_dir)) if condition is Condition.RUNNING else (),
            kept=tuple(read_records(self._run_dir)),
        )

    def _read_journal(self) -> bool:
        """Fold what was written since the last look; return whether there is a journal."""
        journal = self._run_dir / "journal"
        if not any(journal.glob("*.log")):
            return False
        try:
            for found in self._reader:
                self._tally.take(found)
        except JournalError as exc:
            self._damage[str(exc)] = None
        return True

    def _note_damage(self, damage: JournalTail) -> None:
        self._damage[f"the journal is damaged: {self._run_dir / 'journal'}/{_place(damage)}"] = None


def outline(run_dir: Path) -> RunStatus:
    """Return how a run is as far as that needs no reading of its journal.

    Raises:
        SpecError: The run folder cannot be read; the text names the file.
    """
    holder = read_holder(run_dir)  # before what the holder writes before it gives it back
    description = read_description(run_dir)
    holder = holder or _holder_from(description)
    condition, why = _condition(holder, description)
    return RunStatus(run_dir, condition, why, holder, description, _counts_from(description))


def glance(run_dir: Path) -> RunStatus:
    """Return how a run is; of one that has ended only what needs no reading of its journal.

    Raises:
        SpecError: The run folder cannot be read; the text names the file.
    """
    found = outline(run_dir)
    is_enough = found.condition is Condition.ENDED and found.counts
    return found if is_enough else RunWatcher(run_dir).look()


def is_over(run_dir: Path) -> bool:
    """Return whether a run surely runs no more, at little cost.

    Raises:
        SpecError: The run folder cannot be read; the text names the file.
    """
    return outline(run_dir).is_over


def read_description(run_dir: Path) -> dict[str, Any]:
    """Return what `run.json` says; nothing where it is not there yet.

    Raises:
        SpecError: It cannot be read, or is no JSON.
    """
    path = run_dir / "run.json"
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise SpecError(f"cannot read {path}: {exc.strerror}; ask its owner for access") from exc
    except ValueError as exc:
        raise SpecError(f"{path} is damaged: {exc}; `rhapsody status` can do without it: move it away") from exc
    if not isinstance(found, dict):
        raise SpecError(f"{path} is damaged: it holds no description; move it away to look at the run without it")
    return found


def _condition(holder: Holder | None, description: Mapping[str, Any]) -> tuple[Condition, str]:
    """Return how a run is, and how that is known."""
    ended_ns = _whole(description.get("ended_ns"))
    if holder is None:
        return _condition_of_nobody(ended_ns, submitted=bool(description.get("submitted_ns")))
    if ended_ns and ended_ns >= holder.since_ns:
        return Condition.ENDED, ""
    if holder.released:
        return Condition.ENDED, "it did not say how it ended"
    alive = holder.alive
    if alive is False:
        return Condition.CRASHED, f"process {holder.pid} on {holder.host} is gone and did not end the run"
    if alive or abs(holder.beat_age_s) < holder.stale_s:
        return Condition.RUNNING, ""
    silent = f"no sign of it for {holder.beat_age_s:.0f} s, if the clocks agree; " if holder.time_ns else ""
    return Condition.UNREACHABLE, f"{silent}it ran on {holder.host}, and can be looked at there"


def _condition_of_nobody(ended_ns: int, *, submitted: bool) -> tuple[Condition, str]:
    """Return how a run is that no process is known to have run."""
    if ended_ns:
        return Condition.ENDED, ""
    return (Condition.SUBMITTED, "") if submitted else (Condition.CRASHED, "nothing tells who ran it")


def _holder_from(description: Mapping[str, Any]) -> Holder | None:
    """Return who runs a run without a lease: one that is just beginning, or whose lease is lost."""
    host, pid = description.get("host"), _whole(description.get("pid"))
    since_ns = _whole(description.get("started_ns"))
    if not isinstance(host, str) or not pid:
        return None
    is_here = host == socket.gethostname()
    return Holder(
        number=0,
        host=host,
        boot=local_boot() if is_here else "",
        pid=pid,
        started=_started_before(pid, since_ns) if is_here else 0,
        token="",
        since_ns=since_ns,
        time_ns=0,
    )


def _started_before(pid: int, time_ns: int) -> int:
    """Return when a process started if that was before a time, else -1: another process has its pid by now."""
    ticks = started_at(pid)
    if ticks is None:
        return -1
    booted_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    started_s = booted_s + ticks / os.sysconf("SC_CLK_TCK")
    return ticks if started_s < time_ns / 1e9 + _CLOCK_SLACK_S else -1


def _counts_from(description: Mapping[str, Any]) -> dict[State, int]:
    """Return the counts that a run without a journal left at its end."""
    tasks = description.get("tasks")
    if not isinstance(tasks, dict):
        return {}
    return {state: _whole(tasks[state]) for state in State if tasks.get(state)}


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def _place(tail: JournalTail) -> str:
    return f"{tail.segment} at offset {tail.offset}: {tail.reason}"
