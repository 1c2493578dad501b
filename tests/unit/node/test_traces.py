"""What programs leave in /dev/shm: noted when it is made by a process below, and by no other."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rhapsody.node.processes import descendants
from rhapsody.node.traces import Traces, files_in, note_new, sweep
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAKE = """
import mmap, os, sys
path, how = sys.argv[1:]
descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(descriptor, 4096)
if how != "open":
    memory = mmap.mmap(descriptor, 4096)
    os.close(descriptor)
print("made", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder that is watched."""
    made = tmp_path / "watched"
    made.mkdir()
    return made


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """The file that things are noted in."""
    return tmp_path / "traces"


class Maker:
    """A process that makes a file and holds it until told to end."""

    def __init__(self, path: Path, how: str = "open") -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-c", MAKE, str(path), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._popen.pid
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == b"made\n"

    def end(self) -> None:
        self._popen.communicate()


@pytest.fixture
def makers() -> Iterator[list[Maker]]:
    """Those in it are ended after the test."""
    started: list[Maker] = []
    yield started
    for maker in started:
        maker.end()


@pytest.mark.parametrize("how", ["open", "mapped"])
async def test_what_a_process_below_made_is_noted_and_removed_once_nobody_uses_it(
    how: str, folder: Path, notes: Path
) -> None:
    traces = Traces(notes, [folder])
    maker = Maker(folder / "DD_1", how)
    await eventually(notes.exists, what="it is noted")

    traces.close()
    while_it_is_used = sweep(notes)
    maker.end()
    afterwards = sweep(notes)

    assert (while_it_is_used, afterwards) == ([], [folder / "DD_1"])
    assert list(folder.iterdir()) == []


async def test_what_was_not_yet_looked_at_is_noted_before_its_maker_is_ended(
    folder: Path, notes: Path, makers: list[Maker]
) -> None:
    traces = Traces(notes, [folder])
    makers.append(Maker(folder / "DD_1"))

    traces.look()

    assert str(folder / "DD_1") in notes.read_text()
    traces.close()


async def test_who_finds_what_nobody_noted_takes_what_is_new_and_its_own_only(
    folder: Path, notes: Path, makers: list[Maker]
) -> None:
    (folder / "before").touch()
    before = files_in([folder]).keys()
    makers += [Maker(folder / "before"), Maker(folder / "new")]
    (folder / "of nobody").touch()

    note_new(notes, [folder], before)

    assert [line.partition("/")[2] for line in notes.read_text().splitlines()] == [str(folder / "new")[1:]]


async def test_what_was_there_before_is_left_alone(folder: Path, notes: Path) -> None:
    (folder / "before").touch()
    traces = Traces(notes, [folder])

    maker = Maker(folder / "before")
    traces.close()
    maker.end()

    assert sweep(notes) == []
    assert (folder / "before").exists()


async def test_what_another_process_of_this_user_made_is_left_alone(
    folder: Path, notes: Path, makers: list[Maker]
) -> None:
    makers.append(ours := Maker(folder / "ours"))
    traces = Traces(notes, [folder], ancestor=ours.pid)

    makers.append(Maker(folder / "theirs"))
    traces.close()

    assert not notes.exists()


async def test_another_file_of_the_same_name_is_left_alone(folder: Path, notes: Path) -> None:
    traces = Traces(notes, [folder])
    maker = Maker(folder / "DD_1")
    await eventually(notes.exists, what="it is noted")
    traces.close()
    maker.end()
    kept = folder / "kept"
    (folder / "DD_1").rename(kept)
    (folder / "DD_1").touch()

    assert sweep(notes) == []
    assert {path.name for path in folder.iterdir()} == {"DD_1", "kept"}


def test_notes_that_are_not_there_or_cut_off_do_no_harm(notes: Path) -> None:
    without = sweep(notes)
    notes.write_text("12\n1 2 /dev/shm/hal")

    assert (without, sweep(notes)) == ([], [])


def test_descendants_are_found_over_generations() -> None:
    script = "sh -c 'echo $$; read line; true'; true"
    popen = subprocess.Popen(["/bin/sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert popen.stdout is not None
    grandchild = int(popen.stdout.readline())

    found = descendants(os.getpid())

    popen.communicate()
    assert {os.getpid(), popen.pid, grandchild} <= found
    assert os.getppid() not in found
