"""`rhapsody logs`: what a run and its tasks have printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.target import errors_told, find_run, target_argument

if TYPE_CHECKING:
    from pathlib import Path

_EPILOG = """\b
Examples:
  rhapsody logs -f                            the newest run, as it goes
  rhapsody logs study-20261121 --task task.000007
  rhapsody logs study-20261121 --task relax-3 --stderr

\b
Exit codes: 0 it was shown; 1 there is nothing to show, what is known of the
task was said instead; 2 there is no such run or task.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.option("--task", "uid", metavar="UID", help="Show all that this task printed, in its newest attempt.")
@click.option("--stderr", is_flag=True, help="With --task: show its standard error instead of its standard output.")
@click.option("-f", "--follow", is_flag=True, help="Go on as more is printed, until the run, or the task, has ended.")
@click.pass_context
def logs(
    context: click.Context, target: str | None, runs: Path | None, uid: str | None, stderr: bool, follow: bool
) -> None:
    """Show what a run printed: its notices, what its workers wrote outside of tasks, and what its job printed.

    TARGET is a run folder, a run's uid, the beginning of one, or a job's id; the newest run, unless given. What tasks
    print is kept whole where they ask for it with capture_stdio=True; see --task.
    """
    from rhapsody.cli.printed import show_run, show_task  # noqa: PLC0415 - keeps `--help` quick

    if stderr and uid is None:
        raise click.UsageError("--stderr belongs to --task UID", context)
    with errors_told():
        folder = find_run(target, runs)
        try:
            if uid is None:
                show_run(folder, follow=follow)
            elif not show_task(folder, uid, stderr=stderr, follow=follow):
                context.exit(OTHER_ERROR)
        except KeyboardInterrupt:
            pass  # the usual way to end --follow
