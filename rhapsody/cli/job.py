"""The batch job of a run, for commands that look at runs."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from rhapsody.deploy.records import How, read_jobs, read_record
from rhapsody.deploy.schedulers.batch import JobPhase
from rhapsody.deploy.schedulers.choice import batch_system
from rhapsody.deploy.watching import JobWatcher
from rhapsody.errors import BackendError, SpecError
from rhapsody.session.status import is_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from rhapsody.deploy.records import Record
    from rhapsody.deploy.schedulers.batch import BatchSystem, JobLook
    from rhapsody.deploy.watching import JobStatus

PHASE_COLOURS = {
    JobPhase.QUEUED: "yellow",
    JobPhase.RUNNING: "cyan",
    JobPhase.COMPLETED: "green",
    JobPhase.FORGOTTEN: "yellow",
}
_OTHER_COLOUR = "red"
NO_JOB = "local"
"""What the script of a run without a batch system calls itself."""


def system_of(record: Record | None) -> BatchSystem | None:
    """Return the batch system that has the job of a deployment; None where none has, or its commands are not here."""
    if record is None or record.how is not How.BATCH:
        return None
    system = batch_system(record.profile.scheduler.kind)
    return None if system.missing() else system


def job_watcher(run_dir: Path) -> JobWatcher | None:
    """Return what looks at the job of a run; None for a run that was not deployed.

    Raises:
        SpecError: What is kept of the deployment is damaged.
    """
    record = read_record(run_dir)
    return None if record is None else JobWatcher(run_dir, record, system_of(record))


class _Told:
    """Stands for a batch system that was asked of many jobs at once.

    Args:
        looks: What it said of them.
    """

    def __init__(self, looks: Mapping[str, JobLook]) -> None:
        self._looks = looks

    def look(self, job_ids: Sequence[str]) -> Mapping[str, JobLook]:
        """Return what it said."""
        return {job_id: self._looks[job_id] for job_id in job_ids if job_id in self._looks}


def jobs_of(folders: Iterable[Path]) -> dict[Path, JobStatus]:
    """Return how the jobs of runs are; each batch system is asked once, for all of which it must be.

    Runs that were not deployed, and those whose record is damaged, are left out.
    """
    records: dict[Path, Record] = {}
    found: dict[Path, JobStatus] = {}
    for folder in folders:
        with suppress(SpecError):  # `rhapsody status` of that run tells what is wrong
            if read_jobs(folder) and (record := read_record(folder)):
                records[folder] = record
                found[folder] = JobWatcher(folder, record, None).look()
    looks = _ask_once(
        {folder: records[folder] for folder, job in found.items() if job.job_id and not job.is_over}, found
    )
    for folder in looks:
        found[folder] = JobWatcher(folder, records[folder], _Told(looks[folder])).look()
    return found


def _ask_once(records: Mapping[Path, Record], found: Mapping[Path, JobStatus]) -> dict[Path, Mapping[str, JobLook]]:
    """Return by run folder what its batch system says; nothing where that has nothing to say."""
    asked: dict[str, tuple[BatchSystem, list[Path]]] = {}
    for folder, record in records.items():
        if system := system_of(record):
            asked.setdefault(system.name, (system, []))[1].append(folder)
    told: dict[Path, Mapping[str, JobLook]] = {}
    for system, mine in asked.values():
        with suppress(BackendError):  # what is written down is shown
            told |= dict.fromkeys(mine, system.look([found[folder].job_id for folder in mine]))
    return told


def all_is_over(job: JobStatus | None, *, run_is_over: bool) -> bool:
    """Return whether surely nothing goes on, nor will, given how the job is, if there is one, and the run."""
    if job is None:
        return run_is_over
    return job.is_over or (job.phase is JobPhase.FORGOTTEN and run_is_over)


def run_and_job_are_over(run_dir: Path, watcher: JobWatcher | None) -> bool:
    """Return whether surely nothing of a run goes on, nor will.

    Raises:
        SpecError: The run folder cannot be read.
    """
    return all_is_over(watcher.look() if watcher is not None else None, run_is_over=is_over(run_dir))


def job_facts(job: JobStatus) -> Iterator[tuple[str, str]]:
    """Yield what is to be told of a job, as labels and texts; nothing of what needed no batch system."""
    if job.job_id == NO_JOB:
        return
    name = click.style(str(job.phase), fg=PHASE_COLOURS.get(job.phase, _OTHER_COLOUR))
    why = f": {job.why}" if job.why else ""
    yield "job", f"{job.job_id or 'none'} {name}{_where(job)}{why}"
    if job.links > 1:
        yield "chain", f"{min(job.link, job.links)} of {job.links}"
    if job.remark:
        yield "", f"(the batch system could not be asked: {job.remark})"


def _where(job: JobStatus) -> str:
    look = job.look
    if look is None:
        return ""
    parts = []
    if look.nodes and job.phase is JobPhase.RUNNING:
        parts.append(f"on {look.nodes}")
    if look.ends_s and job.phase is JobPhase.RUNNING:
        parts.append(f"until {_moment(look.ends_s)}")
    if look.starts_s and job.phase is JobPhase.QUEUED:
        parts.append(f"may start {_moment(look.starts_s)}")
    return f" {', '.join(parts)}" if parts else ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def job_line(job: JobStatus) -> str:
    """Return a line that says how a job is."""
    facts = dict(job_facts(job))
    if not facts:
        return f"the script {job.phase}: {job.why}".removesuffix(": ")
    return f"job {click.unstyle(facts['job'])}" + (f", {facts['chain']}" if "chain" in facts else "")


def job_dict(job: JobStatus | None) -> dict[str, Any] | None:
    """Return how a job is, of what JSON can say; what is not known is null."""
    if job is None:
        return None
    look = job.look
    return {
        "job_id": job.job_id or None,
        "phase": str(job.phase),
        "why": job.why or None,
        "link": job.link,
        "links": job.links,
        "exit_code": job.exit_code,
        "nodes": (look.nodes or None) if look else None,
        "began_s": look.began_s if look else None,
        "ends_s": look.ends_s if look else None,
        "may_start_s": look.starts_s if look else None,
        "native": look.native if look else None,
        "remark": job.remark or None,
    }
