"""The end of a run, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.faults import explain
from rhapsody.cli.progress import COLOURS
from rhapsody.model.event import State
from rhapsody.session.deadline import duration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rhapsody.cli.execution import Outcome
    from rhapsody.telemetry.history.past import Tally

_EXAMPLE_LIMIT = 300
_NAMES_SHOWN = 3


def error_text(outcome: Outcome, file: Path) -> str:
    """Return what ended the campaign before its time, or an empty text."""
    error = outcome.error
    if isinstance(error, SystemExit):
        return "" if isinstance(error.code, int) else str(error.code)
    return "" if error is None else explain(error, file)


def verdict(outcome: Outcome) -> str:
    """Return why the exit code is not 0 although the campaign raised nothing, or an empty text."""
    if outcome.error is not None:
        return ""
    if outcome.interrupted:
        can_go_on = outcome.opened and (outcome.session.run_dir / "journal").is_dir()
        return (
            f"interrupted; go on with: rhapsody run --resume {outcome.session.run_dir}" if can_go_on else "interrupted"
        )
    if outcome.not_finished:
        return _not_finished(outcome)
    unseen = outcome.session.unseen_failures
    if not unseen:
        return ""
    tasks = "1 task" if unseen == 1 else f"{unseen} tasks"
    return f"{tasks} failed and the campaign never looked: await them, or read their `exception`"


def _not_finished(outcome: Outcome) -> str:
    """Return what is left, and how to go on with it."""
    if not outcome.opened:
        return "not finished: time ran out before the session was open; start it again"
    left, run_dir = outcome.session.left_undone, outcome.session.run_dir
    tasks = "1 task is left" if left == 1 else f"{left} tasks are left" if left else "the campaign was stopped"
    if not (run_dir / "journal").exists():
        return f"not finished: {tasks}; with --no-journal it cannot be gone on with, start it again"
    return f"not finished: {tasks}; go on with: rhapsody run --resume {run_dir}"


def table(outcome: Outcome) -> str:
    """Render the summary for people: what ended how, how long it took, where it lies, why tasks failed."""
    session = outcome.session
    counts = [click.style(f"{count} {name}", fg=_colour(name)) for name, count in session.counts.items()]
    lines = [
        f"tasks       {'  '.join(counts) or 'none'}",
        f"wall time   {duration(outcome.wall_s)}",
        f"run folder  {session.run_dir}",
    ]
    if session.resumed is not None:
        lines.append(f"resumed     {_comparison(session.resumed)}")
    return "\n".join([*lines, *_failure_lines(outcome)])


def _comparison(tally: Tally) -> str:
    """Return how the tasks compare with those of earlier sessions."""
    parts = [f"{tally.restored} not run again"]
    if tally.changed:
        names = sorted(set(tally.changed))
        shown = ", ".join(names[:_NAMES_SHOWN]) + (", …" if len(names) > _NAMES_SHOWN else "")
        parts.append(f"{len(tally.changed)} with other code or inputs than before ({shown})")
    parts += [f"{tally.repeated} run once more"] if tally.repeated else []
    parts += [f"{tally.unknown} UNKNOWN, since they may have run"] if tally.unknown else []
    parts += [f"{len(tally.unreadable)} without their value"] if tally.unreadable else []
    return ", ".join(parts)


def _failure_lines(outcome: Outcome) -> Iterator[str]:
    groups = sorted(outcome.session.failures.items(), key=lambda item: -item[1].count)
    if not groups:
        return
    width = max(len("cause"), *(len(cause) for cause, _ in groups))
    yield ""
    yield f"failed  {'cause':<{width}}  for example"
    for cause, group in groups:
        yield f"{group.count:>6}  {cause:<{width}}  {group.example_uid}: {_first_line(group.example)}"


def as_json(outcome: Outcome, error: str) -> str:
    """Render the summary for programs, on one line.

    Args:
        outcome: How the campaign ended.
        error: What ended it before its time, or an empty text.
    """
    session = outcome.session
    run: dict[str, Any] = {
        "uid": session.uid,
        "run_dir": str(session.run_dir),
        "backend": session.backend_name,
        "cores": session.allocation.usable_cores,
        "gpus": session.allocation.gpus,
        "oversubscribed": session.allocation.oversubscribed,
        "wall_s": round(outcome.wall_s, 3),
        "interrupted": outcome.interrupted,
        "out_of_time": outcome.session.out_of_time,
        "exit_code": outcome.exit_code,
        "error": error or verdict(outcome) or None,
    }
    if session.resumed is not None:
        run["resumed"] = asdict(session.resumed)
    failures = [
        {"cause": cause, "count": group.count, "example": group.example, "example_uid": group.example_uid}
        for cause, group in session.failures.items()
    ]
    return json.dumps({"schema": 1, "run": run, "tasks": session.counts, "failures": failures})


def _colour(name: str) -> str | None:
    return COLOURS.get(State(name))


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0]
    return line if len(line) <= _EXAMPLE_LIMIT else f"{line[:_EXAMPLE_LIMIT]}…"
