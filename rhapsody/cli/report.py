"""`rhapsody report`: what a run did, and how well."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.target import errors_told, find_run, target_argument

if TYPE_CHECKING:
    from pathlib import Path

_EPILOG = """\b
Examples:
  rhapsody report                      the newest run in ./runs
  rhapsody report study-20261121
  rhapsody report runs/study-20261121-163256-ab12 --json > report.json

\b
docs/reports.md defines every metric, and the keys of the JSON.

\b
Exit codes: 0 all could be read, however the run went; 1 its journal is
damaged, and the report is of what was recorded before that; 2 there is no
such run, or it has no journal.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.option("--json", "as_json", is_flag=True, help="Print it for programs, with the series over time.")
@click.pass_context
def report(context: click.Context, target: str | None, runs: Path | None, as_json: bool) -> None:
    """Show what a run did, and how well: throughput, utilization, width, rates, stages, failures.

    TARGET is a run folder, a run's uid, or the beginning of one; the newest run, unless given. A run that is under way
    is reported up to its last event.
    """
    from rhapsody.cli.report_view import as_dict, look, render  # noqa: PLC0415 - keeps `--help` quick

    with errors_told():
        found = look(find_run(target, runs))
    click.echo(json.dumps(as_dict(found)) if as_json else render(found))
    if found.damage:
        click.echo(f"Error: {found.damage}; this is a report of what was recorded before that", err=True)
    context.exit(OTHER_ERROR if found.damage else 0)
