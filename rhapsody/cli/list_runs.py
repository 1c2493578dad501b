"""`rhapsody list`: the runs in a folder, the newest first."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.target import errors_told, list_runs, runs_folder, runs_option
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path


@click.command("list", epilog="\b\nExamples:\n  rhapsody list\n  rhapsody list --runs /scratch/me/runs --json")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_context
def list_command(context: click.Context, runs: Path | None, as_json: bool) -> None:
    """List runs, the newest first: how they are, when they began, and how many of their tasks are done.

    Items of array tasks count each. `rhapsody status RUN` tells more of one; the beginning of its name is enough.
    """
    from rhapsody.cli.job import jobs_of  # noqa: PLC0415
    from rhapsody.cli.runs_table import row_of, table  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.cli.status_view import as_dict  # noqa: PLC0415
    from rhapsody.session.status import glance  # noqa: PLC0415

    with errors_told():
        folders = list_runs(runs)
        jobs = jobs_of(folders)
    found, problems = [], []
    for folder in folders:
        try:
            found.append(glance(folder))
        except SpecError as exc:
            problems.append(f"{folder.name}: {exc}")
    problems += [f"{each.uid}: {text}" for each in found for text in each.damage]
    if as_json:
        click.echo(json.dumps({"schema": 1, "runs": [as_dict(each, jobs.get(each.run_dir)) for each in found]}))
    elif found:
        click.echo(table([row_of(each, jobs.get(each.run_dir)) for each in found], shutil.get_terminal_size().columns))
    elif not problems:
        click.echo(f"no runs in {runs_folder(runs)}", err=True)
    for text in problems:
        click.echo(f"Error: {text}", err=True)
    context.exit(OTHER_ERROR if problems else 0)
