"""The metrics of a run: what they are made of, and as JSON. `docs/reports.md` defines each of them.

A run that was resumed has several sessions. What is measured over time is measured on an axis on which one session
follows the other at once: the time between them does not count.
"""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import asdict, dataclass, replace
from itertools import accumulate
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from rhapsody.model.allocation import Allocation
from rhapsody.telemetry.metrics.figures import STAGES, Family
from rhapsody.telemetry.metrics.rates import best_shift, counts_in, overlap_of, window_for
from rhapsody.telemetry.metrics.width import width_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rhapsody.telemetry.metrics.figures import SessionFigures
    from rhapsody.telemetry.metrics.width import Stretches, Width

SCHEMA = 1
_NS = 1e9
_DIGITS = 6


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """One session of the run.

    Attributes:
        session: Its number.
        begin_ns: When its first task was submitted, nanoseconds since the epoch; None if none was.
        end_ns: The last end of a task, or while some have not ended, the last event; None before.
        done: Tasks that ran and were done in it.
        restored: Tasks that were DONE in an earlier session and did not run in this one.
        tasks: Tasks by state, as this session left them.
    """

    session: int
    begin_ns: int | None
    end_ns: int | None
    done: int
    restored: int
    tasks: dict[str, int]


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Tasks that failed for one cause; items of array tasks count each.

    Attributes:
        cause: In one word; None where the journal does not say.
        count: How many.
        example: What one of them said; None where the journal does not say.
        example_uid: Which one; None likewise.
    """

    cause: str | None
    count: int
    example: str | None
    example_uid: str | None


@dataclass(frozen=True, slots=True)
class Rate:
    """How often something happened.

    Attributes:
        count: In all.
        mean_per_s: Over the whole time; None while that has no length.
        peak_per_s: In the window in which it happened most often.
        series: Per second, in each window `(t - w, t]`.
    """

    count: int
    mean_per_s: float | None
    peak_per_s: float | None
    series: list[float]


@dataclass(frozen=True, slots=True)
class Lag:
    """How far tasks follow the answers of models; all None where there are none.

    Attributes:
        count: Answers that a task depends on which was then seen running.
        mean_s: From an answer until the first such task was running.
        median_s: The same.
        max_s: The same.
        shift_s: By how much the arrival rate follows the decision rate: where their correlation is greatest.
        correlation: Pearson's, at that shift.
    """

    count: int
    mean_s: float | None
    median_s: float | None
    max_s: float | None
    shift_s: float | None
    correlation: float | None


class Stage(NamedTuple):
    """A stage of the way of tasks.

    Attributes:
        tasks: How often one went through it.
        mean_s: How long that took; None if none did.
    """

    tasks: int
    mean_s: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The metrics of a run. What is not known, or makes no sense for it, is None.

    Attributes:
        run: What the last session was described with.
        sessions: In order.
        cores: Those of the allocation that tasks can get.
        gpus: The same.
        oversubscribed: Whether more cores were declared than there are CPUs.
        tasks: Tasks by state, as the last session has them; items of array tasks count each, services do not.
        services: Services by state.
        families: What ran, in all sessions: the most core-seconds first.
        failures: Why tasks failed, the most frequent cause first.
        last_event_ns: Nanoseconds since the epoch.
        done: Tasks that ran and were done, over all sessions.
        makespan_s: From the first submission to the last delivery; over several sessions, the sum.
        throughput: TH, tasks per second.
        core_utilization: RU of cores, 0 to 1, or more where tasks share them.
        gpu_utilization: RU of GPUs.
        width: HW.
        window_s: w, of the two rates.
        arrivals: ARR; without a series where the time has no length.
        decisions: D, the decision rate.
        lag: From decisions to arrivals.
        overlap: Share of windows in which there were both decisions and arrivals; None without decisions.
        stages: How long tasks were on each part of their way; None where the journal does not say.
    """

    run: dict[str, Any]
    sessions: list[SessionSummary]
    cores: int | None
    gpus: int | None
    oversubscribed: bool | None
    tasks: dict[str, int]
    services: dict[str, int]
    families: list[Family]
    failures: list[FailureGroup]
    last_event_ns: int | None
    done: int
    makespan_s: float | None
    throughput: float | None
    core_utilization: float | None
    gpu_utilization: float | None
    width: Width | None
    window_s: float | None
    arrivals: Rate
    decisions: Rate
    lag: Lag
    overlap: float | None
    stages: dict[str, Stage | None]

    @property
    def overhead_s(self) -> float | None:
        """OVH: for tasks that do nothing, all the time that there is."""
        return self.makespan_s

    @property
    def overhead_per_task_s(self) -> float | None:
        """OVH per task that was done."""
        return self.makespan_s / self.done if self.makespan_s is not None and self.done else None

    def as_json(self) -> dict[str, Any]:
        """Return what `rhapsody report --json` prints, in values that JSON knows."""
        return {
            "schema": SCHEMA,
            "run": {
                **{key: self.run.get(key) for key in ("uid", "name", "version", "backend", "host", "started_ns")},
                "cores": self.cores,
                "gpus": self.gpus,
                "oversubscribed": self.oversubscribed,
                "last_event_ns": self.last_event_ns,
                "sessions": [asdict(session) for session in self.sessions],
            },
            "tasks": self.tasks,
            "services": self.services,
            "metrics": self._metrics(),
            "ran": [_family_as_json(family) for family in self.families],
            "failures": [asdict(group) for group in self.failures],
        }

    def _metrics(self) -> dict[str, Any]:
        return {
            "TH": self.throughput,
            "RU": {"cores": self.core_utilization, "gpus": self.gpu_utilization},
            "HW": None if self.width is None else _width_as_json(self.width),
            "window_s": self.window_s,
            "ARR": asdict(self.arrivals),
            "decision_rate": asdict(self.decisions),
            "lag": asdict(self.lag),
            "overlap": self.overlap,
            "overhead": {
                "OVH_s": self.overhead_s,
                "tasks": self.done,
                "per_task_s": self.overhead_per_task_s,
                "stages": {name: stage and stage._asdict() for name, stage in self.stages.items()},
            },
        }


def measured(sessions: Sequence[SessionFigures]) -> Measured:
    """Return the metrics of a run from the figures of its sessions, in order."""
    last = sessions[-1] if sessions else None
    allocations = [_allocation_of(each.run) for each in sessions]
    now = allocations[-1] if allocations else None
    done = sum(each.done for each in sessions)
    makespan_ns = _makespan_ns(sessions)
    length_ns = sum(each.window_ns for each in sessions)
    rates = _Rates(sessions, length_ns)
    oversubscribed = [each.run.get("oversubscribed") for each in sessions]
    return Measured(
        run=last.run if last else {},
        sessions=[_summary(each) for each in sessions],
        cores=now.usable_cores if now else None,
        gpus=now.gpus if now else None,
        oversubscribed=True if True in oversubscribed else oversubscribed[-1] if oversubscribed else None,
        tasks=_named(last.states) if last else {},
        services=_named(last.services) if last else {},
        families=_families(sessions),
        failures=_failures(last) if last else [],
        last_event_ns=max((each.last_ns for each in sessions), default=0) or None,
        done=done,
        makespan_s=makespan_ns / _NS if makespan_ns else None,
        throughput=done * _NS / makespan_ns if makespan_ns else None,
        core_utilization=_utilization(
            sessions, [each.usable_cores if each else None for each in allocations], "core_ns"
        ),
        gpu_utilization=_utilization(sessions, [each.gpus if each else None for each in allocations], "gpu_ns"),
        width=width_of(_types(sessions), length_ns),
        window_s=rates.window_ns / _NS if length_ns else None,
        arrivals=rates.arrivals(),
        decisions=rates.decisions(),
        lag=rates.lag(),
        overlap=rates.overlap(),
        stages=_stages(sessions),
    )


def _makespan_ns(sessions: Sequence[SessionFigures]) -> int:
    """Return the sum of the sessions' times: one that was followed by another is over, whatever became of its tasks."""
    if not sessions:
        return 0
    last = sessions[-1]
    before_ns = sum(each.window_ns for each in sessions[:-1])
    if last.begin_ns is None or last.delivered_ns is None:
        return before_ns
    return before_ns + max(0, last.delivered_ns - last.begin_ns)


def _utilization(sessions: Sequence[SessionFigures], counts: Sequence[int | None], used: str) -> float | None:
    available_ns = 0
    for each, count in zip(sessions, counts, strict=True):
        if count is None:
            return None
        available_ns += count * each.window_ns
    return sum(getattr(each, used) for each in sessions) / available_ns if available_ns else None


def _shifts(sessions: Sequence[SessionFigures]) -> Iterator[tuple[SessionFigures, int]]:
    """Yield sessions, each with what added to its times gives the place on the axis of the run."""
    before = accumulate((each.window_ns for each in sessions), initial=0)
    for each, offset_ns in zip(sessions, before, strict=False):
        if each.begin_ns is not None:
            yield each, offset_ns - each.begin_ns


def _types(sessions: Sequence[SessionFigures]) -> list[Stretches]:
    """Return when tasks of each type were running, on the axis of the run."""
    found: dict[str, Stretches] = {}
    for each, shift_ns in _shifts(sessions):
        for name, columns in each.types.items():
            known = found.setdefault(name, (array("q"), array("q")))
            for into, column in zip(known, columns, strict=True):
                into.extend([moment + shift_ns for moment in column])
    return list(found.values())


class _Rates:
    """Decisions and arrivals, on the axis of the run."""

    def __init__(self, sessions: Sequence[SessionFigures], length_ns: int) -> None:
        self._sessions = sessions
        self._length_ns = length_ns
        self.window_ns = window_for(length_ns)
        self._lags = [lag for each in sessions for lag in each.lags]
        self._arrived = self._counts(
            (at + shift for each, shift in _shifts(sessions) for at in each.arrivals),
            ((at + shift, count) for each, shift in _shifts(sessions) for at, count in each.item_arrivals),
        )
        self._decided = self._counts(at + shift for each, shift in _shifts(sessions) for at in each.decisions)

    def _counts(self, moments: Iterable[int], together: Iterable[tuple[int, int]] = ()) -> list[int]:
        return counts_in(-(-self._length_ns // self.window_ns), self.window_ns, moments, together)

    def _rate(self, total: int, counts: Sequence[int]) -> Rate:
        series = [_rounded(count * _NS / self.window_ns) for count in counts]
        mean = total * _NS / self._length_ns if self._length_ns else None
        return Rate(total, mean, max(series, default=None), series)

    def arrivals(self) -> Rate:
        total = sum(len(each.arrivals) + sum(count for _, count in each.item_arrivals) for each in self._sessions)
        return self._rate(total, self._arrived)

    def decisions(self) -> Rate:
        return self._rate(sum(len(each.decisions) for each in self._sessions), self._decided)

    def overlap(self) -> float | None:
        return overlap_of(self._decided, self._arrived) if any(self._decided) else None

    def lag(self) -> Lag:
        lags_s = [lag / _NS for lag in self._lags]
        found = best_shift(self._decided, self._arrived)
        return Lag(
            count=len(lags_s),
            mean_s=sum(lags_s) / len(lags_s) if lags_s else None,
            median_s=median(lags_s) if lags_s else None,
            max_s=max(lags_s, default=None),
            shift_s=found[0] * self.window_ns / _NS if found else None,
            correlation=found[1] if found else None,
        )


def _stages(sessions: Sequence[SessionFigures]) -> dict[str, Stage | None]:
    found: dict[str, Stage | None] = {}
    for name in STAGES:
        tasks = sum(each.stages[name][0] for each in sessions)
        total_ns = sum(each.stages[name][1] for each in sessions)
        found[name] = Stage(tasks, total_ns / tasks / _NS if tasks else None)
    return {**found, "done_delivered": None}  # the journal has one time for both


def _families(sessions: Sequence[SessionFigures]) -> list[Family]:
    found: dict[tuple[str, str, str, int, int], Family] = {}
    for family in (family for each in sessions for family in each.families):
        key = (family.kind, family.label, family.type_name, family.cores, family.gpus)
        if key not in found:
            found[key] = replace(family)
        else:
            known = found[key]
            known.accepted = family.accepted
            known.runs += family.runs
            known.busy_ns += family.busy_ns
    return sorted(found.values(), key=lambda family: (-family.cores * family.busy_ns, -family.accepted))


def _failures(last: SessionFigures) -> list[FailureGroup]:
    groups = [
        FailureGroup(cause, found.tasks, found.example or None, found.example_uid or None)
        for cause, found in last.failures.items()
    ]
    return sorted(groups, key=lambda group: -group.count)


def _summary(each: SessionFigures) -> SessionSummary:
    return SessionSummary(each.session, each.begin_ns, each.until_ns, each.done, each.restored, _named(each.states))


def _named(states: dict[Any, int]) -> dict[str, int]:
    return {str(state): count for state, count in Counter(states).items() if count}


def _allocation_of(run: dict[str, Any]) -> Allocation | None:
    try:
        return Allocation.model_validate(run.get("allocation"))
    except ValidationError:
        return None


def _width_as_json(width: Width) -> dict[str, Any]:
    series = {"step_s": width.step_ns / _NS, "mean": [_rounded(mean) for mean in width.means], "peak": width.peaks}
    return {"peak": width.peak, "mean": width.mean, "series": series}


def _family_as_json(family: Family) -> dict[str, Any]:
    return {
        "kind": family.kind or None,
        "label": family.label or None,
        "type": family.type_name or None,
        "cores": family.cores or None,
        "gpus": family.gpus if family.cores else None,
        "tasks": family.accepted,
        "runs": family.runs,
        "busy_s": family.busy_ns / _NS,
    }


def _rounded(value: float) -> float:
    """Return a value of a series with six digits: thousands of them are printed."""
    return float(f"{value:.{_DIGITS}g}")
