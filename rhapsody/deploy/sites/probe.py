"""A first draft of a profile, from what the machine itself says: its batch system's commands, `lscpu`, PATH.

A draft holds only what was answered. What was not is named under `unknown`, for its reader to add.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
from typing import Any

import yaml

from rhapsody.deploy.sites import probe_pbs, probe_slurm
from rhapsody.deploy.sites.container import EngineName
from rhapsody.deploy.sites.probe_ask import ask
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.errors import SpecError

_HEADER = """\
# A draft, made on {host} on {day}. Check each value, add what is under `unknown`, then:
#   rhapsody sites validate {name}.yaml
# What else can be said: rhapsody sites schema, and docs/sites/README.md.
"""
_GPU_FLAGS = {"nvidia": "--nv", "amd": "--rocm"}


class _Dumper(yaml.SafeDumper):
    """Writes equal values out in each place: profiles have no anchors."""

    def ignore_aliases(self, _data: object) -> bool:
        """Return that nothing is referred to."""
        return True


def detect() -> SchedulerKind:
    """Return the batch system whose commands are on PATH; `local` where there are none."""
    if shutil.which("scontrol"):
        return SchedulerKind.SLURM
    if shutil.which("qstat") and shutil.which("pbsnodes"):
        return SchedulerKind.PBS
    return SchedulerKind.LOCAL


def draft(name: str, kind: SchedulerKind) -> str:
    """Return the text of a profile for this machine.

    Args:
        name: Of the site.
        kind: The batch system to ask.

    Raises:
        BackendError: A command that should answer does not.
        SpecError: The batch system is one that cannot be asked.
    """
    host, day = socket.gethostname(), dt.datetime.now(dt.UTC).date()
    about = {"checked": day, "confidence": "H"}
    match kind:
        case SchedulerKind.SLURM:
            blocks = probe_slurm.blocks(about, host)
        case SchedulerKind.PBS:
            blocks = probe_pbs.blocks(about, host)
        case SchedulerKind.LOCAL:
            blocks = _local_blocks(about, host)
        case _:
            raise SpecError(f"a profile for {kind} cannot be drafted from here; extend `{kind}` by hand")
    top = {"schema": 1, "name": name, "title": f"{host}, to be described", "extends": str(kind)}
    container = _container(about, host, blocks)
    text = yaml.dump({**top, **blocks, **container}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return _HEADER.format(host=host, day=day, name=name) + text


def _container(about: dict[str, Any], host: str, blocks: dict[str, Any]) -> dict[str, Any]:
    """Return the engines on PATH; nothing where there are none."""
    found = [str(engine) for engine in EngineName if shutil.which(engine)]
    if not found:
        return {}
    vendors = {kind["gpus"]["vendor"] for kind in blocks.get("nodes", {}).get("kinds", ()) if "gpus" in kind}
    engines: list[dict[str, Any]] = []
    for name in found:
        engine: dict[str, Any] = {"name": name}
        if name == EngineName.APPTAINER and len(vendors) == 1 and (flag := _GPU_FLAGS.get(*vendors)):
            engine["gpu_flags"] = [flag]
        engines.append(engine)
    unknown = ["what containers must mount for the host's MPI", "whether compute nodes have the same engines"]
    return {"container": {"source": f"PATH of {host}", **about, "unknown": unknown, "engines": engines}}


def _local_blocks(about: dict[str, Any], host: str) -> dict[str, Any]:
    """Return the machine itself as the only kind of node."""
    lines = [line for line in ask("lscpu", "--parse=CPU,CORE,SOCKET,NODE").splitlines() if not line.startswith("#")]
    rows = [line.split(",") for line in lines]
    cores = {(core, where) for _, core, where, _ in rows}
    kind = {
        "name": "this",
        "count": 1,
        "cores": len(cores),
        "smt": max(1, len(rows) // len(cores)),
        "numa_domains": len({node for *_, node in rows}),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20}MiB",
    }
    return {"nodes": {"source": f"lscpu, on {host}", **about, "unknown": ["GPUs"], "kinds": [kind]}}
