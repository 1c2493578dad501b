"""Hosts for tests, where this user can make some."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.hosts.job import Job
from tests.hosts.namespaces import Hosts
from tests.hosts.over import Campaign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker("nodes")


@pytest.fixture
def make_hosts() -> Iterator[Callable[[int], Hosts]]:
    """Return what starts so many hosts; they are gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("making hosts of namespaces needs root; run as root: make test-hosts")
    started: list[Hosts] = []
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:

        def make(count: int) -> Hosts:
            place = Path(folder, str(len(started)))
            place.mkdir()
            started.append(Hosts(count, place).__enter__())
            return started[-1]

        try:
            yield make
        finally:
            for hosts in started:
                hosts.__exit__()


@pytest.fixture
def make_job(tmp_path: Path) -> Iterator[Callable[[Hosts], Job]]:
    """Return what makes a job on hosts; its agents are gone after the test."""
    jobs: list[Job] = []

    def make(hosts: Hosts) -> Job:
        jobs.append(Job(hosts, tmp_path / f"job{len(jobs)}"))
        return jobs[-1]

    yield make

    for job in jobs:
        job.reap()


@pytest.fixture
def over(
    make_hosts: Callable[[int], Hosts], make_job: Callable[[Hosts], Job], tmp_path: Path
) -> Callable[[int], Campaign]:
    """Return what makes a campaign over so many hosts."""

    def make(count: int) -> Campaign:
        hosts = make_hosts(count)
        return Campaign(make_job(hosts), tmp_path, hosts)

    return make
