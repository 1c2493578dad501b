"""The nodes that this process may use: those of the job that it belongs to, else this machine."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from rhapsody.errors import SpecError
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.node import machine
from rhapsody.node.messages import Host
from rhapsody.node.private_folder import FOLDER, NODES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rhapsody.node.machine import Machine


def find_allocation(cores: int | None = None, gpus: int | None = None) -> Allocation:
    """Return the nodes of the job whose agent started this process; this machine where none did.

    Args:
        cores: Cores to use on each node; None takes the affinity mask. More than it holds share CPUs: oversubscribed.
        gpus: GPUs to use on each node; None takes those that are found.

    Raises:
        SpecError: A count is below 1 (cores) or 0 (GPUs), or what the agent says cannot be read.
    """
    hosts = _hosts_of_job(os.environ)
    if len(hosts) > 1:
        found = [(host.name, host.machine) for host in hosts]
        source = "job"
    else:
        found = [(socket.gethostname(), machine.look())]
        source = "affinity"
    return Allocation(
        nodes=tuple(_node(name, offer, cores, gpus) for name, offer in found),
        source=source if cores is None else "declared",
        oversubscribed=cores is not None and any(cores > len(offer.cpus) for _, offer in found),
    )


def _hosts_of_job(env: Mapping[str, str]) -> Sequence[Host]:
    """Return the nodes of the job, rank 0 first; none where this process was not started by an agent."""
    if FOLDER not in env:
        return []
    path = Path(env[FOLDER], NODES)
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[Host])
    except (OSError, msgspec.MsgspecError) as exc:
        raise SpecError(
            f"{path}, which says what nodes the job has, cannot be read: {exc}; unset {FOLDER} to use this machine only"
        ) from exc


def _node(name: str, found: Machine, cores: int | None, gpus: int | None) -> Node:
    mask = found.cpus
    count = len(mask) if cores is None else cores
    if count < 1:
        raise SpecError(f"cores={count}: a node needs at least 1 core; leave it out to take all {len(mask)}")
    gpu_count = found.gpus if gpus is None else gpus
    if gpu_count < 0:
        raise SpecError(f"gpus={gpu_count} is negative")
    cpus = tuple(mask[core % len(mask)] for core in range(count))
    shape = NodeShape(
        cores=count,
        gpus=gpu_count,
        memory_bytes=found.memory_bytes,
        numa=_domains(cpus, found),
        gpu_vendor=found.gpu_vendor,
    )
    return Node(name=name, shape=shape, cpus=cpus)


def _domains(cpus: tuple[int, ...], found: Machine) -> tuple[tuple[int, ...], ...]:
    """Return the core ids of each NUMA domain that has any; nothing where there is only one."""
    domains = [tuple(core for core, cpu in enumerate(cpus) if cpu in members) for members in map(set, found.numa)]
    used = tuple(domain for domain in domains if domain)
    return used if len(used) > 1 else ()
