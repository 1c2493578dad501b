"""TARGET: which run is meant, and what is said when none is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from rhapsody.cli.target import find_run, list_runs
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND, THIRD = "study-20260101-120000-aaaa", "fold-20260102-120000-bbbb", "study-20260103-120000-cccc"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of three runs, in which the test stands beside other things."""
    monkeypatch.delenv("RHAPSODY_RUNS", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in (SECOND, THIRD, FIRST):
        make_run(tmp_path / "runs" / name)
    (tmp_path / "runs" / "bench-20260104-120000").mkdir()
    (tmp_path / "runs" / "notes.txt").write_text("")
    (tmp_path / "runs" / "latest").symlink_to(THIRD)
    return tmp_path / "runs"


def without_rights(folder: Path, code: str) -> str:
    """Return what a process prints that may not look into a folder."""
    drop = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []  # root may look into all
    program = f"from rhapsody.cli.target import find_run, list_runs\ntry: {code}\nexcept ValueError as exc: print(exc)"
    folder.chmod(0)
    try:
        return subprocess.run(
            [*drop, sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    finally:
        folder.chmod(0o700)


def make_run(folder: Path, **description: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(description))
    return folder


def refusal(target: str | None, runs: Path | None = None) -> str:
    with pytest.raises(SpecError) as refused:
        find_run(target, runs)
    return str(refused.value)


class TestFound:
    def test_without_a_target_the_newest_is_meant(self, runs: Path) -> None:
        assert find_run(None) == runs / THIRD

    def test_a_uid_is_looked_up_in_the_folder_of_runs(self, runs: Path) -> None:
        assert find_run(FIRST) == runs / FIRST

    def test_the_beginning_of_a_uid_is_enough_when_no_other_has_it(self, runs: Path) -> None:
        assert find_run("fo") == runs / SECOND
        assert find_run("study-20260103") == runs / THIRD

    def test_a_path_is_taken_as_it_is(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        elsewhere = make_run(runs.parent / "elsewhere" / "mine")
        monkeypatch.chdir(elsewhere)

        assert find_run(str(elsewhere)) == elsewhere
        assert find_run("../mine/") == elsewhere
        assert find_run(".") == elsewhere

    def test_a_run_folder_beside_the_user_is_found_by_its_name(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(runs)

        assert find_run(FIRST) == runs / FIRST

    def test_a_link_to_a_run_is_followed(self, runs: Path) -> None:
        assert find_run("latest") == find_run(str(runs / "latest")) == runs / THIRD

    def test_another_folder_of_runs_may_be_named(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        other = make_run(runs.parent / "other" / "one-20260101-120000-dddd")
        third = make_run(runs.parent / "third" / "two-20260101-120000-eeee")
        monkeypatch.setenv("RHAPSODY_RUNS", str(third.parent))

        assert find_run(None) == third
        assert find_run(None, other.parent) == other

    def test_a_run_that_has_only_a_journal_is_one(self, runs: Path) -> None:
        (runs / THIRD / "run.json").unlink()
        (runs / THIRD / "journal").mkdir()

        assert find_run(None) == runs / THIRD


class TestListed:
    def test_runs_are_sorted_by_the_time_in_their_names(self, runs: Path) -> None:
        assert list_runs() == [runs / THIRD, runs / SECOND, runs / FIRST]

    def test_runs_of_the_same_second_are_sorted_by_when_they_began(self, runs: Path) -> None:
        early = make_run(runs / "study-20260105-120000-ffff", started_ns=1)
        late = make_run(runs / "study-20260105-120000-0000", started_ns=2)

        assert list_runs()[:2] == [late, early]

    def test_a_renamed_run_is_sorted_by_when_it_was_changed(self, runs: Path) -> None:
        renamed = make_run(runs / "the good one")

        assert list_runs()[0] == renamed

    def test_runs_of_others_are_left_out(self, runs: Path) -> None:
        found = without_rights(runs / THIRD, "print(*(run.name for run in list_runs()))")

        assert found == f"{SECOND} {FIRST}\n"


class TestRefused:
    def test_an_unknown_uid_is_refused_with_the_newest_five(self, runs: Path) -> None:
        for number in range(4):
            make_run(runs / f"more-2026020{number + 1}-120000-aaaa")

        text = refusal("nothing")

        assert text.startswith(f"there is no run 'nothing' in {runs}; the newest there:\n  more-20260204-120000-aaaa\n")
        assert text.endswith(f"\n  {THIRD}\n  and 2 more: rhapsody list")

    def test_a_beginning_that_several_have_is_refused_with_all_of_them(self, runs: Path) -> None:
        assert refusal("study", runs).endswith(f"give more of its name:\n  {THIRD}\n  {FIRST}")

    def test_an_empty_target_is_no_beginning_of_all(self, runs: Path) -> None:
        assert refusal("", runs).startswith(f"there is no run '' in {runs}")

    def test_a_folder_of_runs_is_no_run_but_shows_those_in_it(self, runs: Path) -> None:
        text = refusal(str(runs))

        assert text.startswith(f"{runs} is no run folder: it has neither run.json nor journal/; runs in {runs}:")
        assert THIRD in text

    def test_a_path_that_is_not_there_is_refused_with_what_is_beside_it(self, runs: Path) -> None:
        text = refusal("runs/gone")

        assert text.startswith(f"the run folder runs/gone does not exist; runs in {runs}:\n  {THIRD}")

    def test_an_empty_folder_of_runs_is_told(self, tmp_path: Path) -> None:
        assert refusal(None, tmp_path).startswith(f"there are no runs in {tmp_path}; give the path of a run folder")

    def test_a_folder_of_runs_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        assert f"the folder {tmp_path / 'gone'} does not exist" in refusal(None, tmp_path / "gone")

    def test_a_folder_of_runs_that_may_not_be_read_is_told(self, runs: Path) -> None:
        text = without_rights(runs, "find_run(None)")

        assert text.startswith(f"the folder of runs {runs} cannot be read: Permission denied; give the path")

    def test_a_run_that_may_not_be_read_is_told(self, runs: Path) -> None:
        text = without_rights(runs / FIRST, f"find_run({FIRST!r})")

        assert text == f"the run folder {runs / FIRST} cannot be read: Permission denied; ask its owner for access\n"
