"""Sessions over the backends under test, as tests make them here and in processes of their own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rhapsody import Allocation, Node, NodeShape, Session
from rhapsody.backends import node_pools

if TYPE_CHECKING:
    from pathlib import Path

ELSEWHERE = "elsewhere"
"""Not a backend of its own: the local one, on a node that is taken for another than the session's."""
_SSH = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
shift
exec sh -c "$*"
"""


def session_over(backend: str, folder: Path, *, cores: int, **options: Any) -> Session:  # noqa: ANN401 - as Session has
    """Return a session that is not open yet.

    Args:
        backend: A name, or `ELSEWHERE`.
        folder: Gets the run folders.
        cores: Of its node.
        options: As `Session` takes them.
    """
    if backend != ELSEWHERE:
        return Session(backend=backend, cores=cores, runs=folder / "runs", **options)
    _pretend_ssh(folder)
    node_pools.own_rank = _none_is_own
    cpus = sorted(os.sched_getaffinity(0))
    options.setdefault("allocation", _node_elsewhere(cores, options.pop("gpus", 0), cpus))
    return Session(backend="local", runs=folder / "runs", **options)


def _none_is_own(nodes: tuple[Node, ...]) -> int:
    return -1


def _node_elsewhere(cores: int, gpus: int, cpus: list[int]) -> Allocation:
    numbers = tuple(cpus[core % len(cpus)] for core in range(cores))
    node = Node(name=ELSEWHERE, shape=NodeShape(cores=cores, gpus=gpus, memory_bytes=1 << 34), cpus=numbers)
    return Allocation(nodes=(node,), oversubscribed=cores > len(cpus))


def _pretend_ssh(folder: Path) -> None:
    """Put an `ssh` first on PATH that runs everything here."""
    place = folder / "bin"
    if not place.exists():
        place.mkdir()
        (place / "ssh").write_text(_SSH)
        (place / "ssh").chmod(0o755)
    if str(place) not in os.environ["PATH"]:
        os.environ["PATH"] = f"{place}{os.pathsep}{os.environ['PATH']}"
