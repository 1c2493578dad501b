"""The table of `rhapsody list`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from rhapsody.cli.job import NO_JOB
from rhapsody.cli.status_view import CONDITION_COLOURS, ago, condition_of
from rhapsody.model.event import State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.deploy.watching import JobStatus
    from rhapsody.session.status import RunStatus

_COLOURS = {str(condition): colour for condition, colour in CONDITION_COLOURS.items()}
_GAP = "  "
_CAMPAIGN_LEAST = 12


class Row(NamedTuple):
    """What the table says of one run; its columns."""

    uid: str
    condition: str
    job: str
    began: str
    done: str
    campaign: str


_HEADINGS = Row("run", "state", "job", "began", "done", "campaign")


def row_of(found: RunStatus, job: JobStatus | None = None) -> Row:
    """Return the row of one run, with the job that runs it, is to run it, or did last."""
    of_job = f"{job.job_id} {job.phase}".strip() if job is not None and job.job_id != NO_JOB else ""
    total = f"{found.counts.get(State.DONE, 0)}/{found.total}"
    began = ago(found.started_ns) if found.started_ns else ""
    return Row(found.uid, condition_of(found, job), of_job, began, total, found.campaign)


def table(rows: Sequence[Row], width: int) -> str:
    """Render rows in columns; only paths of campaigns are shortened, since names of runs are there to be copied.

    There is a column for jobs where there are any.
    """
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    with_jobs = any(row.job for row in rows)
    shown_columns = len(widths) - (0 if with_jobs else 1)
    taken = sum(widths[:-1]) - (0 if with_jobs else widths[2])
    room = max(_CAMPAIGN_LEAST, width - taken - len(_GAP) * (shown_columns - 1))
    lines = []
    for row in chain([_HEADINGS], rows):
        uid, condition, job, began, done, campaign = row
        shown = f"{condition:<{widths[1]}}"
        if row is not _HEADINGS:
            shown = click.style(shown, fg=_COLOURS.get(condition, "yellow"))
        jobs = [f"{job:<{widths[2]}}"] if with_jobs else []
        columns = [f"{uid:<{widths[0]}}", shown, *jobs, f"{began:>{widths[3]}}", f"{done:>{widths[4]}}"]
        lines.append(_GAP.join([*columns, _shortened(campaign, room)]).rstrip())
    return "\n".join(lines)


def _shortened(path: str, room: int) -> str:
    """Return a path, its file name, or the end of that: what there is room for."""
    if len(path) <= room:
        return path
    name = Path(path).name
    return name if len(name) <= room else f"…{name[1 - room :]}"
