"""Sessions over every backend: what holds for one of them is tested over all.

A new backend is added to `BACKENDS`, and nowhere else.
"""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from rhapsody.backends import node_pools
from tests.contract.over import ELSEWHERE, session_over
from tests.leftovers import Process, processes
from tests.requirements import needs_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from rhapsody import Session

BACKENDS = [
    "local",
    pytest.param(ELSEWHERE, marks=pytest.mark.nodes),
    pytest.param("dragon", marks=[pytest.mark.dragon, needs_module("dragon", install="rhapsody-hpc[dragon]")]),
]
MARK_VARIABLE = "CONTRACT_MARK"
SMOKE = {"test_functions.py", "test_worker_loss.py"}
"""What `make test` runs over slow backends; `make test-dragon` and `make test-hosts` run all."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests over slow backends that always run."""
    for item in items:
        is_slow = item.get_closest_marker("dragon") or item.get_closest_marker("nodes")
        if is_slow and item.path.name in SMOKE:
            item.add_marker("smoke")


class NewSession(Protocol):
    """Makes a session that is not open yet, of two cores unless told otherwise."""

    def __call__(self, *, cores: int = 2, **options: Any) -> Session:  # noqa: ANN401 - as Session takes them
        ...


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Return the name of the backend under test."""
    return str(request.param)


@pytest.fixture
def messages() -> list[str]:
    """Return what the test's sessions told the user so far."""
    return []


@pytest.fixture
def living(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Process]]:
    """Return a question: which processes, started since, are alive, whoever their parent is by now?"""
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK_VARIABLE, mark)
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    return lambda: [each for each in processes().values() if wanted in each.environ.split(b"\0")]


@pytest.fixture
def new_session(
    backend: str,
    tmp_path: Path,
    messages: list[str],
    living: Callable[[], list[Process]],
    monkeypatch: pytest.MonkeyPatch,
) -> NewSession:
    """Return what makes sessions over the backend under test, each with its run folder in the test's own folder.

    Their processes are those that `living` finds.
    """

    monkeypatch.setattr(node_pools, "own_rank", node_pools.own_rank)  # and PATH: put back after the test
    monkeypatch.setenv("PATH", os.environ["PATH"])

    def make(*, cores: int = 2, **options: Any) -> Session:  # noqa: ANN401 - as Session takes them
        return session_over(backend, tmp_path, cores=cores, notify=messages.append, **options)

    return make


@pytest.fixture
async def session(new_session: NewSession) -> AsyncIterator[Session]:
    """Return an open session of two cores; what a test leaves in it is cancelled."""
    opened = await new_session()
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
async def narrow_session(new_session: NewSession) -> AsyncIterator[Session]:
    """Return an open session of one core; what a test leaves in it is cancelled."""
    opened = await new_session(cores=1)
    try:
        yield opened
    finally:
        await opened.aclose()


@pytest.fixture
def two_cpus() -> None:
    """Skip where this process may use one CPU only: there is nothing to keep apart."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs: run it where the affinity mask holds more than one")
