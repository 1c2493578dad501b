"""`rhapsody attach`: follow a run until it has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rhapsody.cli.target import errors_told, find_run, target_argument

if TYPE_CHECKING:
    from pathlib import Path

_EPILOG = """\b
Examples:
  rhapsody attach                      the newest run in ./runs
  rhapsody attach 123456               the run of this job
  rhapsody attach study-20261121

\b
Exit codes: those of the campaign, 0 where all went well; 1 the job ended
otherwise, or Ctrl-C; 2 there is no such run; 75 its time was over before all
was done.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.pass_context
def attach(context: click.Context, target: str | None, runs: Path | None) -> None:
    """Follow a run, and the job it runs in, until both have ended. Ctrl-C ends the following, not the run.

    TARGET is a job's id, a run folder, a run's uid, or the beginning of one; the newest run, unless given. How far it
    is comes from the run folder: it may run on another node. The batch system is asked every 30 s at most.
    """
    from rhapsody.cli.following import follow  # noqa: PLC0415 - keeps `--help` quick

    with errors_told():
        context.exit(follow(find_run(target, runs)))
