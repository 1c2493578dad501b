"""Realistic jobs for every shipped site that has a batch system, and the files with the scripts they render to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.script.from_site import CollectivesUse, Deployment, script_for
from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.sites.loading import load_site_file
from rhapsody.deploy.validation.request import Request
from rhapsody.deploy.validation.rules import resolve

FOLDER = Path(__file__).parent
RUN_DIR = "/project/runs/hybrid_campaign-20261121-120000-1a2b"
DEPLOYMENT = Deployment(
    run_dir=RUN_DIR,
    work_dir="/home/someone/campaigns",
    script_path=f"{RUN_DIR}/deploy/job.sh",
    command=("rhapsody", "run", "hybrid_campaign.py", "--", "--ligands", "500"),
    resume_command=("rhapsody", "run", "--resume", RUN_DIR),
    job_name="hybrid_campaign",
    image="/project/images/rhapsody.sif",
)


@dataclass(frozen=True)
class Case:
    """One job of one site."""

    site: str
    request: Request
    deployment: Deployment = field(default=DEPLOYMENT)

    def script(self) -> str:
        """Return the script as it is rendered now."""
        profile = load_site_file(asset_folder("site-profiles") / f"{self.site}.yaml", {})
        return render_script(script_for(resolve(profile, self.request), self.deployment))


BARE = replace(DEPLOYMENT, image=None)
OCI = replace(DEPLOYMENT, image="registry.example.org/rhapsody:1")
HOUR = 3600

CASES = {
    "slurm": Case("slurm", Request(nodes=2, walltime_s=HOUR, account="abc123", queue="normal"), BARE),
    "pbs": Case("pbs", Request(nodes=2, walltime_s=HOUR, account="abc123", queue="workq"), BARE),
    "frontier": Case("frontier", Request(nodes=16, walltime_s=2 * HOUR, account="abc123", links=3)),
    "frontier-rccl": Case(
        "frontier",
        Request(nodes=92, walltime_s=6 * HOUR, account="abc123"),
        replace(DEPLOYMENT, collectives=CollectivesUse.DOMINANT, mail="someone@example.org", after="4711"),
    ),
    "anvil": Case("anvil", Request(nodes=4, walltime_s=24 * HOUR, account="cis123456", queue="wholenode"), BARE),
    "anvil-gpu": Case("anvil", Request(nodes=1, walltime_s=4 * HOUR, account="cis123456-gpu", queue="gpu")),
    "perlmutter": Case(
        "perlmutter",
        Request(nodes=4, walltime_s=2 * HOUR, account="m1234_g", queue="regular", node_kind="gpu-hbm80g"),
        replace(OCI, environment={"NCCL_DEBUG": "INFO"}),
    ),
    "perlmutter-shifter": Case(
        "perlmutter",
        Request(nodes=4, walltime_s=2 * HOUR, account="m1234_g", queue="regular", node_kind="gpu"),
        replace(OCI, engine="shifter"),
    ),
    "aurora": Case("aurora", Request(nodes=256, walltime_s=6 * HOUR, account="CampaignProject", queue="prod")),
    "polaris": Case(
        "polaris",
        Request(nodes=10, walltime_s=3 * HOUR, account="CampaignProject", queue="prod", links=2),
        replace(DEPLOYMENT, host_mpi=True),
    ),
    "delta": Case("delta", Request(nodes=2, walltime_s=HOUR, account="abcd-delta-gpu", queue="gpuA100x4"), BARE),
    "lumi": Case("lumi", Request(nodes=4, walltime_s=12 * HOUR, account="project_465000001", queue="standard-g"), BARE),
}
"""By the name of the file."""


def file_of(case: str) -> Path:
    """Return the golden file of a case."""
    return FOLDER / "scripts" / f"{case}.sh"
