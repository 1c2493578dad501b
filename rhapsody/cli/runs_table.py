"""The table of `rhapsody list`."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from rhapsody.cli.status_view import CONDITION_COLOURS, ago
from rhapsody.model.event import State
from rhapsody.session.status import Condition

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.session.status import RunStatus

_HEADINGS = ("run", "state", "began", "done", "campaign")
_GAP = "  "
_CAMPAIGN_LEAST = 12


class Row(NamedTuple):
    """What the table says of one run; its columns."""

    uid: str
    condition: str
    began: str
    done: str
    campaign: str


def row_of(found: RunStatus) -> Row:
    """Return the row of one run."""
    total = f"{found.counts.get(State.DONE, 0)}/{found.total}"
    began = ago(found.started_ns) if found.started_ns else ""
    return Row(found.uid, str(found.condition), began, total, found.campaign)


def table(rows: Sequence[Row], width: int) -> str:
    """Render rows in columns; only paths of campaigns are shortened, since names of runs are there to be copied."""
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    room = max(_CAMPAIGN_LEAST, width - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1))
    lines = []
    for row in chain([_HEADINGS], rows):
        uid, condition, began, done, campaign = row
        shown = f"{condition:<{widths[1]}}"
        if row is not _HEADINGS:
            shown = click.style(shown, fg=CONDITION_COLOURS[Condition(condition)])
        columns = [f"{uid:<{widths[0]}}", shown, f"{began:>{widths[2]}}", f"{done:>{widths[3]}}"]
        lines.append(_GAP.join([*columns, _shortened(campaign, room)]).rstrip())
    return "\n".join(lines)


def _shortened(path: str, room: int) -> str:
    """Return a path, its file name, or the end of that: what there is room for."""
    if len(path) <= room:
        return path
    name = Path(path).name
    return name if len(name) <= room else f"…{name[1 - room :]}"
