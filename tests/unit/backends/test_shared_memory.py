"""Files in /dev/shm: found by who has mapped them, noted, swept; those of others stay."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import pytest

from rhapsody.backends import shared_memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def name() -> Iterator[str]:
    """Return the name of a file in /dev/shm of a page, that this process has mapped."""
    name = f"rhapsody-test-{os.getpid()}"
    path = shared_memory.FOLDER / name
    path.write_bytes(b"\0" * mmap.PAGESIZE)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE):
        yield name
    path.unlink(missing_ok=True)


def test_files_that_a_process_has_mapped_are_found_by_their_prefix(name: str) -> None:
    found = shared_memory.segments_of([os.getpid()], "rhapsody-test-")

    assert found == {shared_memory.Segment(name, (shared_memory.FOLDER / name).stat().st_ino)}


def test_process_that_has_ended_has_mapped_nothing() -> None:
    assert shared_memory.segments_of([2**22 + 1], "") == set()


def test_noted_files_are_swept(name: str, tmp_path: Path) -> None:
    shared_memory.note(tmp_path, shared_memory.segments_of([os.getpid()], name))

    shared_memory.sweep(tmp_path)

    assert not (shared_memory.FOLDER / name).exists()


def test_file_of_the_same_name_that_somebody_made_since_stays(name: str, tmp_path: Path) -> None:
    shared_memory.note(tmp_path, [shared_memory.Segment(name, 1)])

    shared_memory.sweep(tmp_path)

    assert (shared_memory.FOLDER / name).exists()


def test_name_that_leads_elsewhere_is_left_alone(tmp_path: Path) -> None:
    elsewhere = tmp_path / "precious"
    elsewhere.touch()
    inode = elsewhere.stat().st_ino
    shared_memory.note(tmp_path, [shared_memory.Segment(f"..{elsewhere}", inode)])

    shared_memory.sweep(tmp_path)

    assert elsewhere.exists()


def test_sweeping_where_nothing_was_noted_does_nothing(tmp_path: Path) -> None:
    shared_memory.sweep(tmp_path)

    assert list(tmp_path.iterdir()) == []
