"""Requests for batch scripts, made by hand: one with every field set, and one for each kind of script."""

from __future__ import annotations

from typing import Any

RUN_DIR = "/lustre/project/runs/dock-20261121-120000-1a2b"

PLAIN: dict[str, Any] = {
    "scheduler": "slurm",
    "site": "slurm",
    "job_name": "dock",
    "nodes": 2,
    "walltime_s": 7200,
    "run_dir": RUN_DIR,
    "work_dir": "/home/someone/campaigns",
    "script_path": f"{RUN_DIR}/deploy/job.sh",
    "command": ("rhapsody", "run", "campaign.py", "--", "--ligands", "500"),
    "resume_command": ("rhapsody", "run", "--resume", RUN_DIR),
}
"""The least that a job of Slurm needs, and what goes on with it."""

EVERYTHING: dict[str, Any] = PLAIN | {
    "account": "abc123",
    "queue": "normal",
    "partition": "gpu",
    "qos": "regular",
    "constraint": "gpu&hbm80g",
    "reservation": "hack_day",
    "mail": "someone@example.org",
    "after": "4711",
    "gpus_per_node": 4,
    "gres": "gpu:h100-80",
    "cores_per_node": 64,
    "exclusive": True,
    "options": {"network": "disable_rdzv_get", "overcommit": ""},
    "signal": True,
    "signal_lead_s": 120,
    "here": False,
    "next_link": "requeue",
    "links": 3,
    "launcher_options": ("--mem", "0"),
    "modules": {"use": ("/soft/modulefiles",), "unload": ("xalt",), "load": ("rocm/7.0", "apptainer")},
    "environment": {"LD_LIBRARY_PATH": "$CRAY_LD_LIBRARY_PATH:$LD_LIBRARY_PATH"},
    "user_environment": {"OMP_NUM_THREADS": "4"},
    "proxy": {
        "http": "http://proxy.example.org:3128/",
        "https": "http://proxy.example.org:3129/",
        "no_proxy": ("*.example.org",),
    },
    "container": {
        "engine": "apptainer",
        "image": "/lustre/project/images/rhapsody.sif",
        "flags": ("--rocm",),
        "binds": ("/opt/cray", "$PWD"),
        "environment": {"MPICH_GPU_SUPPORT_ENABLED": "1"},
        "passes": ("FI_*",),
        "staging": {"method": "sbcast", "folder": "/mnt/bb/$USER", "constraint": "nvme"},
    },
    "agent": ("rhapsody-node",),
}
"""All that a script of Slurm can be told."""

EVERYTHING_PBS: dict[str, Any] = {
    **{name: value for name, value in EVERYTHING.items() if name not in {"partition", "qos", "constraint", "gres"}},
    "scheduler": "pbs",
    "site": "pbs",
    "reservation": None,
    "cores_per_node": None,
    "exclusive": False,
    "after": "4711.server",
    "options": {"k": "doe", "r": "y"},
    "resources": {"filesystems": "home:flare", "place": "scatter"},
    "select": {"system": "polaris"},
    "next_link": "submit",
    "launcher_options": ("--cpu-bind=none",),
    "container": EVERYTHING["container"] | {"staging": {"method": "copy", "folder": "/local/scratch"}},
}
"""All that a script of PBS can be told."""


def _in(engine: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    image = {"apptainer": "/lustre/project/images/rhapsody.sif"}.get(engine, "registry.example.org/rhapsody:1")
    return {"container": {"engine": engine, "image": image, **more}}


KINDS: dict[str, dict[str, Any]] = {
    "slurm": PLAIN,
    "slurm-everything": EVERYTHING,
    "slurm-apptainer-gpus": PLAIN | {"gpus_per_node": 8, "cores_per_node": 56} | _in("apptainer", flags=("--rocm",)),
    "slurm-podman-hpc": PLAIN
    | {"qos": "regular", "gpus_per_node": 4, "user_environment": {"NCCL_DEBUG": "INFO"}}
    | _in("podman-hpc", flags=("--gpu", "--network=host"), binds=("/opt",), passes=("DRAGON_*",)),
    "slurm-shifter": PLAIN | _in("shifter", flags=("--module=gpu",), environment={"A": "1"}, binds=("/opt:/opt:ro",)),
    "slurm-timer": PLAIN | {"signal": False},
    "slurm-here": PLAIN | {"here": True, "walltime_s": None},
    "slurm-chain": PLAIN | {"next_link": "submit", "links": 4},
    "pbs": PLAIN | {"scheduler": "pbs", "site": "pbs"},
    "pbs-here": PLAIN | {"scheduler": "pbs", "site": "pbs", "here": True, "walltime_s": None},
    "pbs-everything": EVERYTHING_PBS,
    "pbs-podman": PLAIN | {"scheduler": "pbs", "site": "pbs"} | _in("podman", flags=("--network=host",)),
    "local": PLAIN | {"scheduler": "local", "site": "local", "nodes": 1, "walltime_s": None},
    "local-timer": PLAIN | {"scheduler": "local", "site": "local", "nodes": 1},
}
"""One for each kind of script."""
SUBMITTED = [kind for kind, request in KINDS.items() if request["scheduler"] != "local" and not request.get("here")]
"""Those that a batch system gets."""
