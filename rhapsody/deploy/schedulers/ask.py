"""How the commands of batch systems are asked, and what all of them have in common."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhapsody.deploy.script.quoting import check
from rhapsody.errors import BackendError, SpecError, unknown_name
from rhapsody.session.machine_commands import CommandFailed, CommandMissing, ask, plain_answers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIMIT_S = 60.0
"""Seconds that a command may take: those of a busy batch system wait for each other."""

_OPTIONS_OF_COMMANDS = ("SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "PBS_DPREFIX")
"""Variables that stand for options: they outdo what a script asks for, and hide jobs. Source: sbatch(1), squeue(1),
sacct(1), scancel(1) of Slurm 22.05; qsub(1B) of OpenPBS 23.06."""
_OF_OUTER_JOB = re.compile(
    r"SLURM_(JOB|STEP|MEM_|CPU_|CPUS_|NTASKS|NPROCS|NNODES|NODELIST|TASKS_|GPUS|GRES|TRES|THREADS_|EXPORT_ENV)"
)
"""Variables of the job that this process is in: a job that is submitted from it would inherit them."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A way in which a batch system says no.

    Attributes:
        pattern: What it says, with any case.
        what: What that means.
        fix: What to do.
    """

    pattern: str
    what: str
    fix: str


def asking_environ() -> dict[str, str]:
    """Return the environment for a question: answers are plain, and not bent by the user's variables."""
    return plain_answers(submitting_environ())


def submitting_environ() -> dict[str, str]:
    """Return the environment that a job may inherit: this process's, without what would change the job."""
    inside = "SLURM_JOB_ID" in os.environ
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_OPTIONS_OF_COMMANDS) and not (inside and _OF_OUTER_JOB.match(name))
    }


def missing_commands(commands: Iterable[str]) -> tuple[str, ...]:
    """Return those that are not on PATH."""
    return tuple(command for command in commands if shutil.which(command) is None)


def checked_ids(job_ids: Iterable[str]) -> list[str]:
    """Return job ids without those that come twice.

    Raises:
        SpecError: One is no job id; it could be an option, or worse.
    """
    return [str(check("after", job_id, "job id")) for job_id in dict.fromkeys(job_ids)]


def signal_name(name: str) -> str:
    """Return a signal's name without `SIG`.

    Raises:
        SpecError: There is no such signal.
    """
    bare = name.upper().removeprefix("SIG")
    valid = [each.name.removeprefix("SIG") for each in signal.valid_signals() if isinstance(each, signal.Signals)]
    if bare not in valid:
        raise unknown_name("signal", name, valid)
    return bare


def cancel(command: str, job_id: str, limit_s: float, *, not_yours: re.Pattern[str], over: re.Pattern[str]) -> None:
    """Ask for the end of a job: see `BatchSystem.cancel`.

    Args:
        command: That does so, given the id.
        job_id: Of the job.
        limit_s: Seconds that it may take.
        not_yours: How it says that the job is somebody else's.
        over: How it says that there is nothing left to end.
    """
    (job_id,) = checked_ids([job_id])
    try:
        ask([command, job_id], limit_s=limit_s, environ=asking_environ())
    except CommandFailed as exc:
        if not_yours.search(exc.stderr):
            raise SpecError(f"job {job_id} is not yours to cancel. {command} said: {own_words(exc)}") from exc
        if not over.search(exc.stderr):
            raise


def refused(
    system: str, exc: CommandFailed, spec: Sequence[Refusal], passing: Sequence[Refusal]
) -> SpecError | BackendError:
    """Return the error for a job that was not taken, with the batch system's own words in it.

    Args:
        system: Its name, for people.
        exc: What its command said.
        spec: Refusals that come again with the same script.
        passing: Those that may not. They are looked at first: a limit on jobs is said together with one on sizes.
    """
    said = own_words(exc)
    for refusals, kind in ((passing, BackendError), (spec, SpecError)):
        for refusal in refusals:
            if re.search(refusal.pattern, said, re.IGNORECASE):
                return kind(f"{system} refuses the job: {refusal.what}. {refusal.fix}. It said: {said}")
    return BackendError(f"{system} did not take the job; try again, or ask the site. It said: {said}")


def own_words(exc: CommandFailed) -> str:
    """Return all that a command said of its failure, on one line."""
    lines = [line.strip() for line in exc.stderr.splitlines()] or [str(exc)]
    return " / ".join(line for line in lines if line)[:2000] or str(exc)


def not_here(system: str, exc: CommandMissing) -> BackendError:
    """Return the error for a command that is not on this machine."""
    return BackendError(f"{exc}; {system} is not on this machine: run this on a login node of the site")
