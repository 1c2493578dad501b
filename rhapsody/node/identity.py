"""Which node of the job this is, as launchers tell it."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Source: srun(1); Intel and MPICH's Hydra wiki; Open MPI 5.0 docs, "Environment variables"; HPE PALS, mpiexec(1);
# Kubernetes docs, "Indexed Job". Checked 2026-11. The first that is set counts.
RANKS = (
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("PALS_RANKID", "PALS_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMIX_RANK", ""),
    ("PMI_RANK", "PMI_SIZE"),
    ("JOB_COMPLETION_INDEX", ""),
)
JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "FLUX_JOB_ID", "LSB_JOBID")
LAUNCHERS_OWN = ("PMI_", "PMIX_", "PALS_", "OMPI_COMM_", "OMPI_MCA_ess", "OMPI_MCA_orte_", "HYDI_")
"""What a launcher sets for the ranks that it started, here: agents. An MPI program below would take it for its own."""
STEP = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEPID", "SLURM_TASK_PID", "SLURM_GTIDS")
VIA_SSH = {"OMPI_MCA_plm": "rsh", "PRTE_MCA_plm": "ssh", "HYDRA_LAUNCHER": "ssh"}
"""How MPI launchers start something on other nodes, unless the user has said it: else some call srun."""
_SIOCGIFADDR = 0x8915
LOOPBACK = "127."


class Place(NamedTuple):
    """Which of how many nodes.

    Attributes:
        rank: From 0.
        nodes: How many there are.
    """

    rank: int
    nodes: int


def find_place(rank: int | None, nodes: int | None, hosts: Sequence[str], env: Mapping[str, str]) -> Place:
    """Return which node this is.

    Args:
        rank: As given by the user, None to find it.
        nodes: Likewise.
        hosts: Names of all nodes, if given.
        env: Where launchers tell it.

    Raises:
        SpecError: It is not told, or contradicts itself.
    """
    for rank_name, size_name in RANKS:
        if rank is None and rank_name in env:
            rank = _number(rank_name, env)
            if nodes is None and not hosts and size_name in env:
                nodes = _number(size_name, env)
    if rank is None:
        names = ", ".join(name for name, _ in RANKS)
        raise SpecError(f"which node this is was not said: give --rank, or start it by a launcher that sets {names}")
    nodes = nodes or len(hosts) or None
    if nodes is None:
        raise SpecError("how many nodes there are was not said: give --nodes N, or --hosts with all names")
    if hosts and len(hosts) != nodes:
        raise SpecError(f"--hosts has {len(hosts)} names, but there are {nodes} nodes")
    if not 0 <= rank < nodes:
        raise SpecError(f"rank {rank} is none of 0 to {nodes - 1}: start one agent on each of {nodes} nodes")
    return Place(rank, nodes)


def _number(name: str, env: Mapping[str, str]) -> int:
    try:
        return int(env[name])
    except ValueError:
        raise SpecError(f"{name}={env[name]!r} is no number; give --rank and --nodes") from None


def find_job(env: Mapping[str, str]) -> str:
    """Return the batch system's id of the job; empty where there is none."""
    return next((env[name] for name in JOBS if env.get(name)), "")


def own_names(name: str, hosts: Sequence[str], rank: int, env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of this node, the one that others know best first.

    Args:
        name: As given by the user; empty if not.
        hosts: Names of all nodes, if given.
        rank: Of this one.
        env: Where the batch system tells its name for the node.
    """
    hostname = socket.gethostname()
    found = [name, hosts[rank] if hosts else "", env.get("SLURMD_NODENAME", ""), "" if name else hostname]
    known = [entry for entry in found if entry]
    return tuple(dict.fromkeys([*known, *(entry.partition(".")[0] for entry in known)]))


def own_addresses() -> tuple[str, ...]:
    """Return the addresses at which others might reach this node, its own loopback last."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, interface in socket.if_nameindex():
            with suppress(OSError):  # it has none, or is down
                answer = fcntl.ioctl(probe, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
                found.append(socket.inet_ntoa(answer[20:24]))
    with suppress(OSError):  # Source: proc_net(5); no name service is asked, which may be slow to say nothing
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            address, _, _, scope, *_ = line.split()
            if scope == "00":  # global
                found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address)))
    return tuple(sorted(dict.fromkeys([*found, "127.0.0.1"]), key=lambda address: address.startswith(LOOPBACK)))


def environment_of_commands(path: Sequence[Path], own: Mapping[str, str]) -> dict[bytes, bytes]:
    """Return what commands find in their environment: the agent's own, less what its launcher set for it alone.

    Args:
        path: Folders that come first on PATH.
        own: What is set besides.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS_OWN) and name not in STEP}
    first = os.pathsep.join([*map(str, path), env.get("PATH", os.defpath)])
    whole = VIA_SSH | env | {"PATH": first} | dict(own)
    return {os.fsencode(name): os.fsencode(value) for name, value in whole.items()}
