"""Looking at a run and its job again and again: `rhapsody status --watch`, `rhapsody attach`, `rhapsody deploy --wait`.

How far the campaign is comes from the run's journal. The batch system is asked rarely, for what only it knows.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from rhapsody.cli.faults import OTHER_ERROR, OUT_OF_TIME
from rhapsody.cli.job import all_is_over, job_line, job_watcher
from rhapsody.cli.progress import line_of
from rhapsody.cli.status_view import as_dict, look_of, render
from rhapsody.deploy.schedulers.batch import JobPhase
from rhapsody.session.status import Condition, RunWatcher

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rhapsody.deploy.watching import JobStatus, JobWatcher
    from rhapsody.session.status import RunStatus

LOOK_EVERY_S = 1.0
LINE_EVERY_S = 2.0


class Both(NamedTuple):
    """A run and its job, at one moment.

    Attributes:
        run: How the run is.
        job: How its job is; None for a run that was not deployed.
    """

    run: RunStatus
    job: JobStatus | None

    @property
    def is_over(self) -> bool:
        """Whether nothing goes on, nor will."""
        return all_is_over(self.job, run_is_over=self.run.is_over)

    @property
    def exit_code(self) -> int:
        """What stands for how it ended: the campaign's exit code, 1 where it could not say one."""
        if self.job is None:
            return self.run.exit_code if self.run.exit_code is not None else OTHER_ERROR
        if self.job.exit_code is not None:
            return self.job.exit_code
        return {JobPhase.COMPLETED: 0, JobPhase.TIMEOUT: OUT_OF_TIME}.get(self.job.phase, OTHER_ERROR)


class Looker:
    """Looks at a run and its job.

    Args:
        run_dir: The run folder.

    Raises:
        SpecError: It cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run = RunWatcher(run_dir)
        self._job: JobWatcher | None = job_watcher(run_dir)

    def look(self) -> Both:
        """Return how both are; the run is looked at last, so that of one that is over all is seen.

        Raises:
            SpecError: The run folder cannot be read.
        """
        job = self._job.look() if self._job is not None else None
        return Both(self._run.look(), job)

    def until_over(self) -> Iterator[Both]:
        """Yield looks, until it is over."""
        while True:
            both = self.look()
            yield both
            if both.is_over:
                return
            time.sleep(LOOK_EVERY_S)


def watch(run_dir: Path, *, as_json: bool) -> Both:
    """Show on standard output how a run goes until it has ended, or Ctrl-C; return the last look, which is not shown.

    Raises:
        SpecError: The run folder cannot be read.
    """
    looker = Looker(run_dir)
    both = looker.look()
    show = _json_lines if as_json else _screen if sys.stdout.isatty() else _lines
    try:
        for shown in show(looker.until_over(), err=False):
            both = shown
    except KeyboardInterrupt:
        pass  # the usual way to end it
    return both


def follow(run_dir: Path, *, quiet: bool = False) -> int:
    """Show on standard error how a run goes until it has ended; return what its exit code is.

    Ctrl-C ends the looking, not the run.

    Args:
        run_dir: The run folder.
        quiet: Show nothing.

    Raises:
        SpecError: The run folder cannot be read.
    """
    looks = Looker(run_dir).until_over()
    shown = looks if quiet else (_screen if sys.stderr.isatty() else _lines)(looks, err=True)
    try:
        *_, last = shown
    except KeyboardInterrupt:
        click.echo(f"\nnot following any longer; it goes on: rhapsody attach {run_dir.name}", err=True)
        return OTHER_ERROR
    if not quiet:
        click.echo(render(*last), err=True)
    return last.exit_code


def _json_lines(looks: Iterator[Both], *, err: bool) -> Iterator[Both]:
    """Print each look but the last one, which is printed at the end anyway."""
    before = None
    for both in looks:
        if before is not None:
            click.echo(json.dumps(as_dict(*before)), err=err)
        before = both
        yield both


def _lines(looks: Iterator[Both], *, err: bool) -> Iterator[Both]:
    """Print a line when the job has changed, and from time to time when counts have."""
    said_of_job, said_of_run, next_line_s = "", None, 0.0
    for both in looks:
        clock, now_s = time.strftime("%H:%M:%S"), time.monotonic()
        if both.job is not None and (line := job_line(both.job)) != said_of_job:
            said_of_job = line
            click.echo(f"{clock}  {line}", err=err)
        if both.run.condition is Condition.RUNNING and both.run.counts != said_of_run and now_s >= next_line_s:
            said_of_run, next_line_s = both.run.counts, now_s + LINE_EVERY_S
            click.echo(line_of(look_of(both.run), clock), err=err)
        yield both


def _screen(looks: Iterator[Both], *, err: bool) -> Iterator[Both]:
    """Redraw the whole on a terminal."""
    from rich.console import Console  # noqa: PLC0415 - slow to import
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(stderr=err)
    with Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop") as live:
        for both in looks:
            live.update(Text.from_ansi(render(*both)), refresh=True)
            yield both
