"""`rhapsody status`: how a run is, while it runs and afterwards."""

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
  rhapsody status                      the newest run in ./runs
  rhapsody status study-20261121 --watch
  rhapsody status runs/study-20261121-163256-ab12 --json

\b
Exit codes: 0 all could be read, however the run went; 1 its journal is
damaged; 2 there is no such run.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.option("--json", "as_json", is_flag=True, help="Print it for programs: a line of JSON for each look.")
@click.option("--watch", "watching", is_flag=True, help="Look again every second, until the run has ended.")
@click.pass_context
def status(context: click.Context, target: str | None, runs: Path | None, as_json: bool, watching: bool) -> None:
    """Show how a run is: what ran, what runs, what failed and why; and how its job is, if it was deployed.

    TARGET is a run folder, a run's uid, or the beginning of one, or a job's id; the newest run, unless given. Nothing
    is asked of the run itself: it may run on another node, or have ended.
    """
    from rhapsody.cli.following import Looker, watch  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.cli.status_view import as_dict, render  # noqa: PLC0415

    with errors_told():
        folder = find_run(target, runs)
        both = watch(folder, as_json=as_json) if watching else Looker(folder).look()
    click.echo(json.dumps(as_dict(*both)) if as_json else render(*both))
    for text in both.run.damage:
        click.echo(f"Error: {text}", err=True)
    context.exit(OTHER_ERROR if both.run.damage else 0)
