"""What this machine offers: cores of the affinity mask, GPUs, memory, NUMA domains."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from rhapsody.errors import SpecError
from rhapsody.model.allocation import Allocation, Node, NodeShape

_CPU_FOLDER = Path("/sys/devices/system/node")
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def local_allocation(cores: int | None = None, gpus: int | None = None) -> Allocation:
    """Return this node as an allocation.

    Args:
        cores: Cores to use; None takes the affinity mask. More than the mask holds share CPUs: oversubscribed.
        gpus: GPUs to use; None takes those that are found.

    Raises:
        SpecError: A count is below 1 (cores) or 0 (GPUs).
    """
    mask = sorted(os.sched_getaffinity(0))
    count = len(mask) if cores is None else cores
    if count < 1:
        raise SpecError(f"cores={count}: a session needs at least 1 core; leave it out to take all {len(mask)}")
    vendor, found = find_gpus()
    gpu_count = found if gpus is None else gpus
    if gpu_count < 0:
        raise SpecError(f"gpus={gpu_count} is negative")
    cpus = tuple(mask[core % len(mask)] for core in range(count))
    shape = NodeShape(cores=count, gpus=gpu_count, memory_bytes=memory_bytes(), numa=_numa_of(cpus), gpu_vendor=vendor)
    node = Node(name=socket.gethostname(), shape=shape, cpus=cpus)
    source = "affinity" if cores is None else "declared"
    return Allocation(nodes=(node,), source=source, oversubscribed=count > len(mask))


def find_gpus() -> tuple[str, int]:
    """Return vendor and number of the GPUs that this process may see."""
    for vendor, variable, devices in (
        ("nvidia", "CUDA_VISIBLE_DEVICES", Path("/dev").glob("nvidia[0-9]*")),
        ("amd", "ROCR_VISIBLE_DEVICES", _amd_gpus()),
        ("intel", "ZE_AFFINITY_MASK", []),
    ):
        number = len(list(devices))
        if number:
            visible = os.environ.get(variable)
            return vendor, number if visible is None else len([name for name in visible.split(",") if name.strip()])
    return "nvidia", 0


def _amd_gpus() -> list[Path]:
    # Source: Linux kernel, amdkfd topology in sysfs: GPUs have simd_count above 0, CPUs 0; checked 2026-11.
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/properties")
    return [node for node in nodes if "simd_count 0\n" not in node.read_text()]


def memory_bytes() -> int:
    """Return the memory of this node in bytes, or the control group's limit where that is lower."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for limit in _CGROUP_LIMITS:
        try:
            text = limit.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            total = min(total, int(text))
    return total


def _numa_of(cpus: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Return the core ids of each NUMA domain that has any."""
    domains: list[tuple[int, ...]] = []
    for listing in sorted(_CPU_FOLDER.glob("node[0-9]*/cpulist")):
        members = _parse_cpu_list(listing.read_text().strip())
        domain = tuple(core for core, cpu in enumerate(cpus) if cpu in members)
        if domain:
            domains.append(domain)
    return tuple(domains) if len(domains) > 1 else ()


def _parse_cpu_list(text: str) -> set[int]:
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
