"""The metrics of a run, for people and for programs: what `rhapsody report` prints."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from rhapsody.cli.progress import COLOURS
from rhapsody.cli.status_view import CONDITION_COLOURS
from rhapsody.errors import JournalError, SpecError
from rhapsody.model.event import State
from rhapsody.model.task import Task
from rhapsody.session.deadline import duration
from rhapsody.session.status import Condition, glance, outline
from rhapsody.telemetry.metrics import Metrics
from rhapsody.telemetry.reader import JournalReader, Newcomers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rhapsody.session.status import RunStatus
    from rhapsody.telemetry.metrics import Measured
    from rhapsody.telemetry.metrics.figures import Family

_SAY_FROM_S = 1.0
_SAY_EVERY_S = 0.5
_LINE_EVERY_S = 10.0
_ROWS_SHOWN = 8
_LABEL_LIMIT = 36
_EXAMPLE_LIMIT = 300


class Report(NamedTuple):
    """What is known of a run.

    Attributes:
        folder: The run folder.
        status: Whether it runs, and how that is known.
        measured: Its metrics.
        damage: Where its journal is damaged, with file and offset; empty where it is not.
        tail: Where it breaks off, as a crash leaves it; empty where it does not.
    """

    folder: Path
    status: RunStatus
    measured: Measured
    damage: str
    tail: str


def look(folder: Path) -> Report:
    """Fold the journal of a run, with progress on standard error if that takes long.

    Raises:
        SpecError: The run folder cannot be read, or the run has no journal.
    """
    if not any((folder / "journal").glob("*.log")):
        raise SpecError(
            f"the run {folder.name} has no journal, so there is nothing to report; a run with --no-journal keeps none."
            f" How it is: rhapsody status {folder}"
        )
    status = outline(folder)
    if not status.description:  # only the journal tells who ran it
        status = glance(folder)
    reader = JournalReader(folder)
    metrics = Metrics(reader.uid_of)
    damage = ""
    with _progress() as tell:
        try:
            for found in reader:
                metrics.take(found)
                tell(len(found.numbers) if isinstance(found, Newcomers) else 0)
        except JournalError as exc:
            damage = str(exc)
    tail = reader.tail if not damage and status.condition is Condition.CRASHED else None
    place = f"{tail.segment} at offset {tail.offset}: {tail.reason}" if tail is not None else ""
    return Report(folder, status, metrics.result(), damage, place)


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Give a function that is told of tasks that were read, and says now and then how many there were."""
    is_terminal = sys.stderr.isatty()
    total, next_s, said = 0, time.monotonic() + _SAY_FROM_S, False

    def tell(tasks: int) -> None:
        nonlocal total, next_s, said
        total += tasks
        if time.monotonic() < next_s:
            return
        text = f"reading the journal: {total:,} tasks so far"
        click.echo(f"\r{text}" if is_terminal else text, err=True, nl=not is_terminal)
        next_s, said = time.monotonic() + (_SAY_EVERY_S if is_terminal else _LINE_EVERY_S), True

    try:
        yield tell
    finally:
        if said and is_terminal:
            click.echo("\r\033[K", err=True, nl=False)


def as_dict(found: Report) -> dict[str, Any]:
    """Return a report of what JSON can say."""
    shown = found.measured.as_json()
    status = found.status
    shown["run"] = {
        **shown["run"],
        "uid": found.folder.name,
        "run_dir": str(found.folder),
        "condition": str(status.condition),
        "why": status.why or None,
        "exit_code": status.exit_code,
        "damage": found.damage or None,
        "tail": found.tail or None,
    }
    return shown


def render(found: Report) -> str:
    """Render a report for people."""
    measured, status = found.measured, found.status
    condition = click.style(str(status.condition), fg=CONDITION_COLOURS[status.condition], bold=True)
    lines = [f"{found.folder.name}  {condition}{_ending(status)}"]
    lines += _aligned(_facts(found))
    lines += ["", *_aligned(_metrics(measured))]
    lines += ["", *_ran_lines(measured.families)] if measured.families else []
    lines += ["", *_failure_lines(measured)] if measured.failures else []
    return "\n".join(lines)


def _ending(status: RunStatus) -> str:
    parts = [status.why, "interrupted" if status.interrupted else ""]
    parts.append("" if status.exit_code is None else f"exit code {status.exit_code}")
    known = ", ".join(part for part in parts if part)
    return f"  ({known})" if known else ""


def _facts(found: Report) -> Iterator[tuple[str, ...]]:
    measured = found.measured
    yield "run folder", str(found.folder)
    begun = [session.begin_ns for session in measured.sessions if session.begin_ns is not None]
    if begun:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(begun[0] / 1e9))
        until = " up to the last event" if found.status.condition is not Condition.ENDED else ""
        yield "tasks from", f"{at}, for {_span(_length_s(measured))}{until}"
    if measured.cores is not None:
        shared = ", oversubscribed" if measured.oversubscribed else ""
        backend = f"{measured.run.get('backend')} backend, " if measured.run.get("backend") else ""
        yield "on", f"{backend}{_counted(measured.cores, 'core')}, {_counted(measured.gpus or 0, 'GPU')}{shared}"
    if len(measured.sessions) > 1:
        restored = measured.sessions[-1].restored
        kept = f", {restored:,} tasks restored in the last" if restored else ""
        yield "sessions", f"{len(measured.sessions)}{kept}; the time between them does not count"
    yield "tasks", _states(measured.tasks)
    if measured.services:
        yield "services", _states(measured.services)
    if found.tail:
        yield "journal", f"breaks off in {found.tail}"


def _length_s(measured: Measured) -> float:
    return (
        sum(
            session.end_ns - session.begin_ns
            for session in measured.sessions
            if session.begin_ns is not None and session.end_ns is not None
        )
        / 1e9
    )


def _states(counts: dict[str, int]) -> str:
    shown = [click.style(f"{count:,} {name}", fg=COLOURS.get(State(name))) for name, count in counts.items()]
    return "  ".join(shown) or "none"


def _metrics(measured: Measured) -> Iterator[tuple[str, ...]]:
    """Yield name, symbol, value and what it is made of."""
    throughput, makespan_s = measured.throughput, measured.makespan_s
    made_of = f"{measured.done:,} done in {_span(makespan_s)}" if makespan_s else ""
    yield "throughput", "TH", _per_second(throughput), made_of
    yield "cores in use", "RU", _or_dash(measured.core_utilization, "{:.1%}"), _of(measured.cores, "core")
    if measured.gpus:
        yield "GPUs in use", "RU", _or_dash(measured.gpu_utilization, "{:.1%}"), _of(measured.gpus, "GPU")
    if measured.width is not None:
        yield "types at once", "HW", f"{measured.width.mean:.2f} on average", f"{measured.width.peak} at most"
    else:
        yield "types at once", "HW", "-"
    peak = f"{_per_second(measured.arrivals.peak_per_s)} at most" if measured.arrivals.peak_per_s else ""
    over = f", in windows of {_span(measured.window_s)}" if measured.window_s and peak else ""
    yield "arrivals", "ARR", _per_second(measured.arrivals.mean_per_s), peak + over
    if measured.decisions.count:
        yield from _decisions(measured)
    per_task_s = measured.overhead_per_task_s
    if per_task_s is not None:
        yield "overhead", "OVH", f"{_span(per_task_s)} a task", "all the time there was: for tasks that do nothing"
    for name, stage in measured.stages.items():
        if stage is not None and stage.mean_s is not None:
            yield f"{name.replace('_', ' → ')}", "", f"{_span(stage.mean_s)} on average", f"{stage.tasks:,} times"


def _decisions(measured: Measured) -> Iterator[tuple[str, ...]]:
    lag = measured.lag
    yield (
        "decisions",
        "D",
        _per_second(measured.decisions.mean_per_s),
        f"{measured.decisions.count:,} in all",
    )
    follows = f"{lag.count:,} answers that a task waited for" if lag.count else ""
    yield "answer → running", "lag", _span(lag.mean_s) + " on average" if lag.mean_s is not None else "-", follows
    if lag.shift_s is not None:
        yield "arrivals follow by", "", _span(lag.shift_s), f"correlation {lag.correlation:.2f}"
    yield "overlap", "", _or_dash(measured.overlap, "{:.0%} of windows")


def _ran_lines(families: Sequence[Family]) -> Iterator[str]:
    """Yield what ran, that with the most core-seconds first."""
    shown = families if len(families) <= _ROWS_SHOWN else families[: _ROWS_SHOWN - 1]
    rows = [("ran", "type", "tasks", "core time", "each")]
    rows += [
        (
            _name(family),
            family.type_name or family.kind or "?",
            f"{family.accepted:,}",
            _span(family.cores * family.busy_ns / 1e9) if family.cores else "-",
            _span(family.busy_ns / 1e9 / family.runs) if family.runs else "-",
        )
        for family in shown
    ]
    if rest := families[len(shown) :]:
        tasks = sum(family.accepted for family in rest)
        rows.append((f"{len(rest)} others", "", f"{tasks:,}", _span(_core_s(rest)), ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for label, kind, *numbers in rows:
        right = "  ".join(number.rjust(width) for number, width in zip(numbers, widths[2:], strict=True))
        yield f"{label:<{widths[0]}}  {kind:<{widths[1]}}  {right}".rstrip()


def _name(family: Family) -> str:
    """Return what runs, and what kind of task that is where it is not a usual one."""
    label = _cut(family.label or "other tasks", _LABEL_LIMIT)
    return label if family.kind in {Task.kind, ""} else f"{label} ({family.kind})"


def _core_s(families: Sequence[Family]) -> float:
    return sum(family.cores * family.busy_ns for family in families) / 1e9


def _failure_lines(measured: Measured) -> Iterator[str]:
    causes = [group.cause or "not known" for group in measured.failures]
    width = max(len("cause"), *map(len, causes))
    yield f"failed  {'cause':<{width}}  for example"
    for cause, group in zip(causes, measured.failures, strict=True):
        said = _cut((group.example or "").strip().partition("\n")[0], _EXAMPLE_LIMIT)
        example = f"{group.example_uid}: {said}" if group.example_uid else ""
        yield f"{group.count:>6,}  {cause:<{width}}  {example}".rstrip()


def _aligned(rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    """Yield rows of texts, columns aligned; the last one of each row may be long."""
    table = list(rows)
    columns = max(map(len, table), default=0)
    widths = [max((len(row[at]) for row in table if len(row) > at + 1), default=0) for at in range(columns)]
    for row in table:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*cells, row[-1]]).rstrip()


def _span(seconds: float | None) -> str:
    """Render a duration in a unit that fits."""
    if seconds is None:
        return "-"
    size = abs(seconds)
    if not size:
        return "0 s"
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if size < limit:
            return f"{seconds * factor:.3g} {unit}"
    return duration(seconds) if seconds > 0 else f"{seconds:.1f} s"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _per_second(rate: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s"


def _of(count: int | None, noun: str) -> str:
    return f"of {_counted(count, noun)}" if count is not None else ""


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
