"""`rhapsody cancel`: end a run from outside, on this host or another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rhapsody.cli.target import errors_told, find_run, target_argument

if TYPE_CHECKING:
    from pathlib import Path

STOP_WITHIN_S = 60.0
"""A session takes 20 s at most to end its tasks, and hears of a request from another host within 5 s."""
DRAIN_WITHIN_S = 3600.0
_EPILOG = """\b
Examples:
  rhapsody cancel                      the one run in ./runs that is running
  rhapsody cancel study-20261121       that run; tasks that run are ended
  rhapsody cancel study-20261121 --drain --no-wait
  rhapsody cancel 123456               the job, waiting or running

\b
Exit codes: 0 the run has ended, by now or long ago; 1 it has not within the
limit; 2 there is no such run, or more than one is running and none was named.
"""


@click.command(epilog=_EPILOG)
@target_argument
@click.option("--drain", is_flag=True, help="Let tasks that run go on to their end, and start no more.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until the run has ended.")
@click.option(
    "--limit",
    "limit_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help=f"Wait no longer; {STOP_WITHIN_S:g}, or {DRAIN_WITHIN_S:g} with --drain, unless given.",
)
@click.pass_context
def cancel(
    context: click.Context, target: str | None, runs: Path | None, drain: bool, wait: bool, limit_s: float | None
) -> None:
    """End a run: running tasks are ended, none is started any more.

    TARGET is a run folder, a run's uid, or the beginning of one, or a job's id. It may be left out when exactly one
    run is running. The run may be on another host that shares the folder: it hears of it within seconds. A job that
    waits is taken out of the queue; one that runs is asked to end the campaign in good order first.
    """
    from rhapsody.cli.ending import end_run, only_running  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.cli.ending_job import end_job  # noqa: PLC0415
    from rhapsody.cli.job import system_of  # noqa: PLC0415
    from rhapsody.deploy.records import read_record  # noqa: PLC0415
    from rhapsody.session.status import Condition, outline  # noqa: PLC0415

    usual_s = DRAIN_WITHIN_S if drain else STOP_WITHIN_S
    limit = (usual_s if limit_s is None else limit_s) if wait else None
    with errors_told():
        folder = find_run(target, runs) if target is not None else only_running(runs)
        system = system_of(read_record(folder))
        if system is None or (drain and outline(folder).condition is Condition.RUNNING):
            context.exit(end_run(folder, drain=drain, limit_s=limit))
        context.exit(end_job(folder, system, limit))
