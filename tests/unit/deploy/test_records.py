"""What a run folder keeps of its deployment."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.records import (
    EventKind,
    How,
    JobEvent,
    has_job,
    last_job_id,
    note_event,
    read_jobs,
    read_record,
)
from rhapsody.errors import SpecError
from tests.unit.deploy.deployed import deployed, note

if TYPE_CHECKING:
    from pathlib import Path


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = deployed(tmp_path / "run", "frontier", links=3, next_link="submit")

    assert read_record(tmp_path / "run") == record


def test_the_record_and_the_script_are_nobody_elses(tmp_path: Path) -> None:
    deployed(tmp_path / "run")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run/deploy").iterdir()}
    assert modes == {"request.json": 0o600, "job.sh": 0o700}


def test_a_run_that_was_not_deployed_has_no_record_and_no_jobs(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    assert read_jobs(tmp_path) == ()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}'])
def test_a_damaged_record_is_named_with_what_is_wrong(tmp_path: Path, content: str) -> None:
    deployed(tmp_path / "run")
    (tmp_path / "run/deploy/request.json").write_text(content)

    with pytest.raises(SpecError, match=r"deploy/request\.json is damaged: .*; move it away"):
        read_record(tmp_path / "run")


def test_events_of_jobs_are_read_in_their_order(tmp_path: Path) -> None:
    deployed(tmp_path / "run")
    note_event(tmp_path / "run", "77", EventKind.SUBMITTED)
    note(tmp_path / "run", {"event": "started", "link": 1, "restart": 0, "exit_code": None, "next_job_id": ""})
    note(tmp_path / "run", {"event": "ended", "exit_code": 75})

    events = read_jobs(tmp_path / "run")

    assert [(event.kind, event.job_id, event.exit_code) for event in events] == [
        (EventKind.SUBMITTED, "77", None),
        (EventKind.STARTED, "77", None),
        (EventKind.ENDED, "77", 75),
    ]


@pytest.mark.parametrize(
    "torn", ['{"time_s": 1, "job_id": "7', "", "3", "null", '{"event": "ended"}', '{"time_s": "x"}']
)
def test_a_torn_line_is_left_out(tmp_path: Path, torn: str) -> None:
    deployed(tmp_path / "run")
    note(tmp_path / "run", {"event": "started"}, torn, {"event": "ended", "exit_code": 0})

    assert [event.kind for event in read_jobs(tmp_path / "run")] == [EventKind.STARTED, EventKind.ENDED]


@pytest.mark.parametrize(
    ("events", "job_id"),
    [
        ([], None),
        ([JobEvent(0, "1", EventKind.SUBMITTED)], "1"),
        ([JobEvent(0, "1", EventKind.SUBMITTED), JobEvent(0, "1", EventKind.STARTED)], "1"),
        ([JobEvent(0, "1", EventKind.ENDED), JobEvent(0, "1", EventKind.CONTINUED, next_job_id="2")], "2"),
        ([JobEvent(0, "1", EventKind.ENDED), JobEvent(0, "1", EventKind.CONTINUED)], "1"),
        ([JobEvent(0, "1", EventKind.CONTINUED, next_job_id="2"), JobEvent(0, "2", EventKind.STARTED)], "2"),
    ],
)
def test_the_job_that_counts_is_the_last_link(events: list[JobEvent], job_id: str | None) -> None:
    assert last_job_id(tuple(events)) == job_id


def test_a_run_is_found_by_the_id_of_any_of_its_jobs_with_or_without_the_server(tmp_path: Path) -> None:
    deployed(tmp_path / "run", how=How.BATCH)
    note(tmp_path / "run", {"event": "continued", "job_id": "12.server", "next_job_id": "13.server"})

    assert [job for job in ("12", "13", "12.server", "1", "14", "server", "") if has_job(tmp_path / "run", job)] == [
        "12",
        "13",
        "12.server",
    ]
