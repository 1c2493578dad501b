"""How a run is, by what its files say."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.event import State
from rhapsody.node.processes import started_at
from rhapsody.session.lease import local_boot
from rhapsody.session.status import Condition, RunWatcher, glance, is_over

if TYPE_CHECKING:
    from pathlib import Path

NOW_NS = time.time_ns()
SUBMITTED, RUNNING, ENDED, CRASHED, UNREACHABLE = Condition
ENDED_KEYS = {"ended_ns": NOW_NS, "tasks": {"DONE": 3, "FAILED": 1}}


def describe(folder: Path, **description: object) -> None:
    (folder / "run.json").write_text(json.dumps({"host": os.uname().nodename, "started_ns": NOW_NS, **description}))


def hold(folder: Path, number: int = 1, **changes: object) -> None:
    about: dict[str, Any] = {
        "number": number,
        "host": "node7",
        "boot": local_boot(),
        "pid": os.getpid(),
        "started": started_at(os.getpid()),
        "token": "its",
        "since_ns": NOW_NS - 1,
        "time_ns": time.time_ns() - changes.pop("age_ns", 0),  # type: ignore[operator]
    }
    (folder / "lease").mkdir(exist_ok=True)
    (folder / "lease" / f"{number:06d}.json").write_text(json.dumps(about | changes))


@pytest.mark.parametrize(
    ("description", "holder", "condition"),
    [
        ({}, {}, RUNNING),
        ({}, {"started": 1}, CRASHED),
        ({}, {"released": True}, ENDED),
        ({}, {"boot": "another kernel"}, RUNNING),
        ({}, {"boot": "another kernel", "age_ns": 60_000_000_000}, UNREACHABLE),
        ({}, {"boot": "another kernel", "age_ns": 60_000_000_000, "beat_s": 60.0}, RUNNING),
        (ENDED_KEYS, {"released": True}, ENDED),
        (ENDED_KEYS, {"boot": "another kernel", "time_ns": 1}, ENDED),
        (ENDED_KEYS, {"started": 1, "since_ns": NOW_NS + 1}, CRASHED),
        (ENDED_KEYS, {"since_ns": NOW_NS + 1}, RUNNING),
    ],
)
def test_a_run_is_what_its_lease_and_its_description_say(
    tmp_path: Path, description: dict[str, Any], holder: dict[str, Any], condition: Condition
) -> None:
    describe(tmp_path, **description)
    hold(tmp_path, **holder)

    found = RunWatcher(tmp_path).look()

    assert found.condition is condition
    assert glance(tmp_path).condition is condition
    assert is_over(tmp_path) is (condition in {ENDED, CRASHED})


def test_the_newest_holder_counts(tmp_path: Path) -> None:
    describe(tmp_path)
    hold(tmp_path, 9, started=1)
    hold(tmp_path, 10)

    assert RunWatcher(tmp_path).look().condition is RUNNING


class TestWithoutLease:
    def test_a_run_of_a_living_process_is_running(self, tmp_path: Path) -> None:
        describe(tmp_path, pid=os.getpid())

        assert RunWatcher(tmp_path).look().condition is RUNNING

    def test_a_process_that_began_after_the_run_is_another_one(self, tmp_path: Path) -> None:
        describe(tmp_path, pid=os.getpid(), started_ns=1)

        assert RunWatcher(tmp_path).look().condition is CRASHED

    def test_a_run_on_another_host_is_out_of_reach(self, tmp_path: Path) -> None:
        describe(tmp_path, pid=os.getpid(), host="node7")

        found = RunWatcher(tmp_path).look()

        assert (found.condition, found.why) == (UNREACHABLE, "it ran on node7, and can be looked at there")

    def test_a_run_that_ended_has_ended(self, tmp_path: Path) -> None:
        describe(tmp_path, pid=os.getpid(), **ENDED_KEYS)

        assert RunWatcher(tmp_path).look().condition is ENDED

    def test_an_empty_folder_tells_that_nothing_is_known(self, tmp_path: Path) -> None:
        found = RunWatcher(tmp_path).look()

        assert (found.condition, found.why, found.counts) == (CRASHED, "nothing tells who ran it", {})


class TestFacts:
    def test_how_a_run_ended_is_known_only_when_it_has(self, tmp_path: Path) -> None:
        describe(tmp_path, exit_code=1, interrupted=True, **ENDED_KEYS)
        hold(tmp_path, released=True)
        ended = RunWatcher(tmp_path).look()
        hold(tmp_path, 2, since_ns=NOW_NS + 1)
        resumed = RunWatcher(tmp_path).look()

        assert (ended.exit_code, ended.interrupted, ended.ended_ns) == (1, True, NOW_NS)
        assert (resumed.exit_code, resumed.interrupted, resumed.ended_ns) == (None, False, 0)

    def test_the_time_left_is_that_until_the_deadline(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        describe(tmp_path, deadline=1_000.0)
        hold(tmp_path)
        found = RunWatcher(tmp_path).look()

        monkeypatch.setattr(time, "time", lambda: 900.0)
        before = found.time_left_s
        monkeypatch.setattr(time, "time", lambda: 1_100.0)
        after = found.time_left_s

        assert (before, after) == (100.0, 0.0)

    def test_without_a_deadline_the_time_left_is_not_known(self, tmp_path: Path) -> None:
        describe(tmp_path)
        hold(tmp_path)

        assert RunWatcher(tmp_path).look().time_left_s is None

    def test_a_glance_at_a_run_that_ended_reads_no_journal(self, tmp_path: Path) -> None:
        describe(tmp_path, **ENDED_KEYS)
        hold(tmp_path, released=True)
        (tmp_path / "journal").mkdir()
        (tmp_path / "journal" / "000001.log").write_bytes(b"no journal at all")

        found = glance(tmp_path)

        assert found.counts == {State.DONE: 3, State.FAILED: 1}
        assert found.damage == ()

    @pytest.mark.parametrize("text", ['{"uid": ', "[]", "\xff"])
    def test_a_damaged_description_is_refused_with_its_path(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "run.json").write_text(text, encoding="latin-1")

        with pytest.raises(SpecError, match=rf"{tmp_path}/run\.json is damaged: "):
            RunWatcher(tmp_path).look()
