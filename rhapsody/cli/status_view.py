"""How runs are, for people and for programs: what `rhapsody status` and `rhapsody list` print."""

from __future__ import annotations

import json
import shlex
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.progress import COLOURS, Kind, Look, kind_lines, line_of, rate_text
from rhapsody.session.deadline import duration
from rhapsody.session.status import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.session.status import RunStatus, RunWatcher

LOOK_EVERY_S = 1.0
CONDITION_COLOURS = {
    Condition.RUNNING: "cyan",
    Condition.ENDED: "green",
    Condition.CRASHED: "red",
    Condition.UNREACHABLE: "yellow",
}
_EXAMPLE_LIMIT = 300


def watch(watcher: RunWatcher, *, as_json: bool) -> RunStatus:
    """Show how a run is until it has ended, or Ctrl-C; return the last look."""
    found = watcher.look()
    show = _json_lines if as_json else _screen if sys.stdout.isatty() else _lines
    try:
        for shown in show(_looks(watcher, found)):
            found = shown
    except KeyboardInterrupt:
        pass
    return found


def _looks(watcher: RunWatcher, found: RunStatus) -> Iterator[RunStatus]:
    while not found.is_over:
        yield found
        time.sleep(LOOK_EVERY_S)
        found = watcher.look()
    yield found


def _json_lines(looks: Iterator[RunStatus]) -> Iterator[RunStatus]:
    """Print each look but the last one, which is printed at the end anyway."""
    before = None
    for found in looks:
        if before is not None:
            click.echo(json.dumps(as_dict(before)))
        before = found
        yield found


def _lines(looks: Iterator[RunStatus]) -> Iterator[RunStatus]:
    """Print a line when the counts have changed."""
    said = None
    for found in looks:
        if found.counts != said and not found.is_over:
            said = found.counts
            click.echo(line_of(look_of(found), time.strftime("%H:%M:%S")))
        yield found


def _screen(looks: Iterator[RunStatus]) -> Iterator[RunStatus]:
    """Redraw the whole on a terminal."""
    from rich.live import Live  # noqa: PLC0415 - slow to import
    from rich.text import Text  # noqa: PLC0415

    with Live(transient=True, auto_refresh=False, vertical_overflow="crop") as live:
        for found in looks:
            live.update(Text.from_ansi(render(found)), refresh=True)
            yield found


def look_of(found: RunStatus) -> Look:
    """Return a run's status as what the progress of `rhapsody run` shows."""
    now_ns = found.last_event_ns if found.condition is Condition.CRASHED else time.time_ns()
    kinds = [Kind(kind.label, kind.tasks, max(0, now_ns - kind.since_ns) / 1e9) for kind in found.running]
    return Look(dict(found.counts), found.rate, kinds)


def render(found: RunStatus) -> str:
    """Render a status for people."""
    condition = click.style(str(found.condition), fg=CONDITION_COLOURS[found.condition], bold=True)
    lines = [f"{found.uid}  {condition}{_ending(found)}"]
    lines += [f"{name:<10}  {text}" for name, text in _facts(found) if text]
    look = look_of(found)
    if look.kinds:
        verb = "runs" if found.condition is Condition.RUNNING else "ran then"
        lines += ["", f"{verb} for", *kind_lines(look.kinds)]
    return "\n".join([*lines, *_failure_lines(found)])


def _ending(found: RunStatus) -> str:
    """Return how it ended, behind its condition."""
    parts = [found.why] if found.why else []
    if found.interrupted:
        parts.append("interrupted")
    if found.exit_code is not None:
        parts.append(f"exit code {found.exit_code}")
    return f"  ({', '.join(parts)})" if parts else ""


def _facts(found: RunStatus) -> Iterator[tuple[str, str]]:
    about = found.description
    args = about.get("args")
    yield "campaign", " ".join([found.campaign, shlex.join(map(str, args if isinstance(args, list) else []))]).strip()
    yield "run folder", str(found.run_dir)
    if found.holder is not None:
        backend = f", {about['backend']} backend" if about.get("backend") else ""
        yield "process", f"{found.holder.pid} on {found.holder.host}{backend}"
    yield "began", _moment(found.started_ns)
    if found.ended_ns:
        took = f", after {duration((found.ended_ns - found.started_ns) / 1e9)}" if found.started_ns else ""
        yield ("ended" if found.condition is Condition.ENDED else "last event"), _moment(found.ended_ns) + took
    elif found.last_event_ns:
        yield "last event", _moment(found.last_event_ns)
    if len(found.sessions) > 1:
        hosts = dict.fromkeys(session.host for session in found.sessions if session.host)
        yield "sessions", f"{len(found.sessions)}, on {', '.join(hosts)}; tasks are those of the last one"
    if found.time_left_s is not None:
        yield "time left", duration(found.time_left_s)
    yield "tasks", _counts(found)
    if not found.journaled:
        yield "journal", "none: single tasks cannot be told of"
    yield "journal", f"breaks off in {found.tail}" if found.tail else ""
    if found.may_go_on:
        yield "go on with", f"rhapsody run --resume {found.run_dir}"


def _counts(found: RunStatus) -> str:
    counts = [click.style(f"{count} {state}", fg=COLOURS.get(state)) for state, count in found.counts.items()]
    rate = f"  ({rate_text(found.rate)})" if counts and found.condition is Condition.RUNNING else ""
    return "  ".join(counts) + rate if counts else "none"


def _failure_lines(found: RunStatus) -> Iterator[str]:
    if not found.failures:
        return
    width = max(len("cause"), *(len(group.cause) for group in found.failures))
    yield ""
    yield f"failed  {'cause':<{width}}  for example"
    for group in found.failures:
        text = group.example.strip().partition("\n")[0]
        shown = text if len(text) <= _EXAMPLE_LIMIT else f"{text[:_EXAMPLE_LIMIT]}…"
        example = f"{group.example_uid}: {shown}" if group.example_uid else ""
        yield f"{group.tasks:>6}  {group.cause:<{width}}  {example}".rstrip()


def _moment(time_ns: int) -> str:
    if not time_ns:
        return ""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns / 1e9))
    return f"{at} ({ago(time_ns)})"


def ago(time_ns: int) -> str:
    """Render how long ago something was, in its greatest unit."""
    seconds = max(0.0, time.time() - time_ns / 1e9)
    for limit, unit_s, name in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h")):
        if seconds < limit:
            return f"{seconds // unit_s:.0f} {name} ago"
    return f"{seconds // 86_400:.0f} d ago"


def as_dict(found: RunStatus) -> dict[str, Any]:
    """Return a status of what JSON can say; what is not known is null, times are in seconds since the epoch."""
    about, holder = found.description, found.holder
    return {
        "schema": 1,
        "run": {
            "uid": found.uid,
            "run_dir": str(found.run_dir),
            "condition": str(found.condition),
            "why": found.why or None,
            "exit_code": found.exit_code,
            "interrupted": found.interrupted if found.condition is Condition.ENDED else None,
            "campaign": found.campaign or None,
            "args": about.get("args"),
            "backend": about.get("backend"),
            "host": holder.host if holder else None,
            "pid": holder.pid if holder else None,
            "began_s": _seconds(found.started_ns),
            "ended_s": _seconds(found.ended_ns),
            "last_event_s": _seconds(found.last_event_ns),
            "time_left_s": found.time_left_s,
            "journaled": found.journaled,
        },
        "tasks": {str(state): count for state, count in found.counts.items()},
        "rate_per_s": found.rate if found.condition is Condition.RUNNING else None,
        "running": [{"label": k.label, "tasks": k.tasks, "since_s": _seconds(k.since_ns)} for k in found.running],
        "failures": [
            {"cause": g.cause, "count": g.tasks, "example": g.example, "example_uid": g.example_uid}
            for g in found.failures
        ],
        "sessions": [
            {"session": s.number, "host": s.host, "began_s": _seconds(s.began_ns), "last_event_s": _seconds(s.last_ns)}
            for s in found.sessions
        ],
        "damage": list(found.damage),
    }


def _seconds(time_ns: int) -> float | None:
    return time_ns / 1e9 if time_ns else None
