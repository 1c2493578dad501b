"""How far a journal goes is known without reading it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.model.task import ComputeTask
from rhapsody.telemetry import mark as mark_module
from rhapsody.telemetry.journal import Journal
from rhapsody.telemetry.mark import NAME, Extent, Mark, read_extent
from tests.unit.telemetry.twin import RUN, noop

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    mark = Mark(tmp_path)

    mark.write(Extent(1_000_000, 7))
    mark.write(Extent(12, 3))
    mark.close()
    mark.close()

    assert read_extent(tmp_path) == Extent(12, 3)


def test_a_mark_that_makes_no_sense_says_nothing(tmp_path: Path) -> None:
    (tmp_path / NAME).write_text("many\n")

    assert read_extent(tmp_path) == Extent(0, 0)
    assert read_extent(tmp_path / "absent") == Extent(0, 0)


def test_it_is_written_once_in_a_millisecond_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mark_module, "EVERY_NS", 10**18)
    mark = Mark(tmp_path)
    mark._written_ns = -(10**18)

    mark.write(Extent(1, 1))
    mark.write(Extent(2, 2))

    assert read_extent(tmp_path) == Extent(1, 1)
    mark.close()
    assert read_extent(tmp_path) == Extent(2, 2)


def test_a_journal_says_how_far_it_goes_as_soon_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mark_module, "EVERY_NS", 0)
    journal = Journal.create(tmp_path, RUN)
    tasks = [ComputeTask(noop) for _ in range(3)]

    journal.accepted(tasks, 1)
    before = read_extent(tmp_path / "journal")
    journal.commit()
    after = read_extent(tmp_path / "journal")
    journal.close()

    assert before == Extent(1, 0)
    assert after == Extent(2, tasks[-1].number)


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    Mark(tmp_path).close()

    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600
