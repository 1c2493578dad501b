"""Which batch system a site has, and which one this process is in a job of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.deploy.schedulers.pbs import Pbs
from rhapsody.deploy.schedulers.slurm import Slurm
from rhapsody.deploy.script.quoting import check
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rhapsody.deploy.schedulers.batch import BatchSystem


def batch_system(kind: SchedulerKind) -> BatchSystem:
    """Return the commands of a batch system.

    Raises:
        SpecError: Nothing of this kind has jobs.
    """
    match kind:
        case SchedulerKind.SLURM:
            return Slurm()
        case SchedulerKind.PBS:
            return Pbs()
        case _:
            raise SpecError(f"{kind} has no jobs of a batch system; name a site whose scheduler is slurm or pbs")


def held_job(environ: Mapping[str, str]) -> tuple[SchedulerKind, str] | None:
    """Return the batch system and the id of the job that this process is in; None outside of jobs.

    Raises:
        SpecError: The variable that says so holds no job id.
    """
    for kind, variable in ((SchedulerKind.SLURM, "SLURM_JOB_ID"), (SchedulerKind.PBS, "PBS_JOBID")):
        if job_id := environ.get(variable):
            return kind, str(check("after", job_id, variable))
    return None
