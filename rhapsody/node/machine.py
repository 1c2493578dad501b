"""What a machine offers to a process on it: CPUs of the affinity mask, GPUs, memory, NUMA domains."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

_NUMA_FOLDER = Path("/sys/devices/system/node")
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Machine(msgspec.Struct, frozen=True):
    """What one machine offers.

    Attributes:
        cpus: CPU numbers of the operating system that may be used, ascending.
        numa: Those CPU numbers of each NUMA domain that has any.
        memory_bytes: Of the machine, or the control group's limit where that is lower.
        gpu_vendor: `nvidia`, `amd` or `intel`.
        gpus: How many of its GPUs this process may see.
    """

    cpus: tuple[int, ...]
    numa: tuple[tuple[int, ...], ...]
    memory_bytes: int
    gpu_vendor: str
    gpus: int


def look() -> Machine:
    """Return what this machine offers to this process."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    vendor, gpus = _find_gpus()
    return Machine(cpus, _numa_of(cpus), _memory_bytes(), vendor, gpus)


def _find_gpus() -> tuple[str, int]:
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


def _memory_bytes() -> int:
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
    listings = sorted(_NUMA_FOLDER.glob("node[0-9]*/cpulist"))
    domains = [_parse_cpu_list(listing.read_text().strip()) for listing in listings]
    return tuple(tuple(cpu for cpu in cpus if cpu in domain) for domain in domains if not domain.isdisjoint(cpus))


def _parse_cpu_list(text: str) -> set[int]:
    cpus: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus
