"""Agents of two nodes, both of them this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.hosts.job import Here, Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A job over the nodes `alpha` and `beta`, both this machine; gone after the test."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    made = Job(Here("alpha", "beta"), tmp_path / "job")
    yield made
    made.reap()
