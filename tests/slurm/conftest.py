"""A Slurm for tests, where this user can make hosts."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.containers.conftest import base, built, engines, image, sif, words  # noqa: F401 - fixtures, for the image
from tests.hosts.namespaces import Hosts
from tests.requirements import needs_command
from tests.slurm.batch import Batch
from tests.slurm.cluster import Cluster
from tests.slurm.config import LOGIN

if TYPE_CHECKING:
    from collections.abc import Iterator

NODES = 4
OPEN_TO_ALL = "/tmp"  # noqa: S108 - $TMPDIR may be closed to other users: to those that daemons run as, and submit jobs
_NEEDS = {
    "ip": "iproute2",
    "nsenter": "util-linux",
    "sbatch": "slurm-wlm",
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "slurmdbd": "slurmdbd",
    "munged": "munge",
    "mariadbd": "mariadb-server",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder, and say what they need."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("slurm")
            for command, package in _NEEDS.items():
                item.add_marker(needs_command(command, package=package))


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Return a cluster that all tests share: a test leaves it as it found it, with no job and all nodes."""
    if os.geteuid() != 0:
        pytest.skip("making hosts of namespaces needs root; run as root: make test-slurm")
    names = [LOGIN, *(f"node{number}" for number in range(1, NODES + 1))]
    with tempfile.TemporaryDirectory(prefix="slurm-", dir=OPEN_TO_ALL) as folder:
        Path(folder).chmod(0o755)
        places = [Path(folder, name) for name in ("hosts", "cluster")]
        for place in places:
            place.mkdir()
        with Hosts(len(names), places[0], names) as hosts, Cluster(hosts, places[1]) as cluster:
            yield cluster


@pytest.fixture
def batch(cluster: Cluster, tmp_path: Path) -> Iterator[Batch]:
    """Return a job that is not submitted yet; it is cancelled after the test."""
    batch = Batch(cluster, tmp_path)

    yield batch

    if batch.job_id:
        cluster.cancel(batch.job_id)


@pytest.fixture
def mortal(cluster: Cluster) -> Iterator[str]:
    """Return a node that the test may kill: the last one; it is there again after the test."""
    name = cluster.nodes[-1]

    yield name

    cluster.revive(name)
