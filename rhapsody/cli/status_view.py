"""How runs are, for people and for programs: what `rhapsody status` and `rhapsody list` print."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.job import job_dict, job_facts
from rhapsody.cli.progress import COLOURS, Kind, Look, kind_lines, rate_text
from rhapsody.cli.services_view import service_dicts, service_facts
from rhapsody.session.deadline import duration
from rhapsody.session.status import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.watching import JobStatus
    from rhapsody.session.status import RunStatus

CONDITION_COLOURS = {
    Condition.SUBMITTED: "yellow",
    Condition.RUNNING: "cyan",
    Condition.ENDED: "green",
    Condition.CRASHED: "red",
    Condition.UNREACHABLE: "yellow",
}
_EXAMPLE_LIMIT = 300


def look_of(found: RunStatus) -> Look:
    """Return a run's status as what the progress of `rhapsody run` shows."""
    now_ns = found.last_event_ns if found.condition is Condition.CRASHED else time.time_ns()
    kinds = [Kind(kind.label, kind.tasks, max(0, now_ns - kind.since_ns) / 1e9) for kind in found.running]
    return Look(dict(found.counts), found.rate, kinds)


def render(found: RunStatus, job: JobStatus | None = None) -> str:
    """Render a status for people, with that of the job that it runs in."""
    condition = click.style(condition_of(found, job), fg=CONDITION_COLOURS[found.condition], bold=True)
    lines = [f"{found.uid}  {condition}{_ending(found)}"]
    facts = [*_facts(found), *(job_facts(job) if job is not None else ())]
    lines += [f"{name:<10}  {text}" for name, text in facts if text]
    look = look_of(found)
    if look.kinds:
        verb = "runs" if found.condition is Condition.RUNNING else "ran then"
        lines += ["", f"{verb} for", *kind_lines(look.kinds)]
    return "\n".join([*lines, *_failure_lines(found)])


def condition_of(found: RunStatus, job: JobStatus | None) -> str:
    """Return what is the matter with a run; one whose job is over before it began is not said to wait for it."""
    if found.condition is Condition.SUBMITTED and job is not None and job.is_over:
        return "NOT BEGUN"
    return str(found.condition)


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
    if not found.journaled and found.condition is not Condition.SUBMITTED:
        yield "journal", "none: single tasks cannot be told of"
    yield "journal", f"breaks off in {found.tail}" if found.tail else ""
    yield from service_facts(found)
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


def as_dict(found: RunStatus, job: JobStatus | None = None) -> dict[str, Any]:
    """Return a status, with that of its job, of what JSON can say; what is not known is null, times are Unix times."""
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
        "job": job_dict(job),
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
        "services": service_dicts(found),
        "damage": list(found.damage),
    }


def _seconds(time_ns: int) -> float | None:
    return time_ns / 1e9 if time_ns else None
