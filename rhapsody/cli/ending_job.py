"""Ending the batch job of a run: what `rhapsody cancel` does with what was deployed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.job import job_line, job_watcher
from rhapsody.deploy.records import EventKind, note_event
from rhapsody.deploy.schedulers.batch import JobPhase

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.schedulers.batch import BatchSystem
    from rhapsody.deploy.watching import JobStatus, JobWatcher

LOOK_EVERY_S = 0.5
KILLED_WITHIN_S = 60.0
"""So long a job may take to be gone once the batch system is to end it."""


def end_job(folder: Path, system: BatchSystem, limit_s: float | None) -> int:
    """End the job of a run and wait until it has ended: its script first, which ends the campaign in good order.

    Args:
        folder: The run folder.
        system: That has the job.
        limit_s: So long the campaign may take to end, then the batch system ends the job; None: do not wait.

    Returns:
        The exit code of the command.

    Raises:
        SpecError: The run folder cannot be read.
        BackendError: The batch system does not do it.
    """
    watcher = job_watcher(folder)
    if watcher is None:
        return OTHER_ERROR
    job = watcher.look()
    if job.is_over or not job.job_id:
        click.echo(f"{job_line(job)}: it has ended already")
        return 0
    if job.phase is JobPhase.QUEUED:
        system.cancel(job.job_id)
        note_event(folder, job.job_id, EventKind.CANCELED, link=job.link)
        click.echo(f"the job {job.job_id} is taken out of the queue")
        return 0
    system.signal(job.job_id, "TERM")
    click.echo(f"asked the job {job.job_id} to end", err=True)
    if limit_s is None:
        return 0
    try:
        return _wait(watcher, system, job, limit_s)
    except KeyboardInterrupt:
        click.echo(f"not waiting any longer; the job {job.job_id} ends without this command", err=True)
        return OTHER_ERROR


def _wait(watcher: JobWatcher, system: BatchSystem, job: JobStatus, limit_s: float) -> int:
    last = _until_over(watcher, limit_s)
    if not last.is_over:
        click.echo(f"it has not ended within {limit_s:g} s: {system.name} ends the job {job.job_id} now", err=True)
        system.cancel(last.job_id)
        watcher.ask_next_time()
        last = _until_over(watcher, KILLED_WITHIN_S)
    if last.is_over:
        click.echo(f"{job_line(last)}: it has ended")
        return 0
    click.echo(f"Error: {job_line(last)}; look at it: rhapsody status {job.job_id}", err=True)
    return OTHER_ERROR


def _until_over(watcher: JobWatcher, limit_s: float) -> JobStatus:
    began = time.monotonic()
    while True:
        job = watcher.look()
        if job.is_over or time.monotonic() - began >= limit_s:
            return job
        time.sleep(LOOK_EVERY_S)
