"""How a job is, from what its script wrote down and what the batch system says."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.deploy.records import How
from rhapsody.deploy.schedulers.batch import JobLook, JobPhase
from rhapsody.deploy.watching import ASK_EVERY_S, ASK_LEAST_S, JobWatcher
from tests.unit.deploy.deployed import deployed, note

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

QUEUED, RUNNING = JobPhase.QUEUED, JobPhase.RUNNING
LONG_AGO = {"time_s": 1_000_000}


class System:
    """A batch system that says what it is told to."""

    def __init__(self, phase: JobPhase = QUEUED, **more: Any) -> None:  # noqa: ANN401
        self.says = phase
        self.more = more
        self.asked: list[str] = []

    def look(self, job_ids: Sequence[str]) -> dict[str, JobLook]:
        self.asked += job_ids
        return {job_id: JobLook(job_id, self.says, **self.more) for job_id in job_ids}


class Clock:
    """Shows what it is set to."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def watcher(folder: Path, system: System | None, clock: Clock | None = None, **request: Any) -> JobWatcher:  # noqa: ANN401
    return JobWatcher(folder, deployed(folder, **request), system, clock or Clock())


def test_a_job_that_was_submitted_is_asked_for_and_says_why_it_waits(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System(reason="waits behind jobs of higher priority"))
    note(tmp_path / "run", {"event": "submitted"})

    job = watch.look()

    assert (job.job_id, job.phase, job.why) == ("77", QUEUED, "waits behind jobs of higher priority")
    assert not job.is_over


def test_the_script_is_believed_before_a_batch_system_that_was_asked_earlier(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System())
    note(tmp_path / "run", {"event": "submitted"})
    watch.look()

    note(tmp_path / "run", {"event": "started"})

    assert watch.look().phase is RUNNING


@pytest.mark.parametrize(
    ("code", "phase", "why"),
    [
        (0, JobPhase.COMPLETED, ""),
        (1, JobPhase.FAILED, "exit code 1"),
        (75, JobPhase.TIMEOUT, "the time was over before all was done"),
    ],
)
def test_a_script_that_said_how_it_ended_needs_no_batch_system(
    tmp_path: Path, code: int, phase: JobPhase, why: str
) -> None:
    system = System()
    watch = watcher(tmp_path / "run", system)
    note(tmp_path / "run", {"event": "started"}, {"event": "ended", "exit_code": code})

    job = watch.look()

    assert (job.phase, job.why, job.exit_code, job.is_over) == (phase, why, code, True)
    assert system.asked == []


@pytest.mark.parametrize(("event", "phase"), [("failed", JobPhase.FAILED), ("canceled", JobPhase.CANCELLED)])
def test_a_job_that_never_began_the_campaign_is_over(tmp_path: Path, event: str, phase: JobPhase) -> None:
    watch = watcher(tmp_path / "run", None)
    note(tmp_path / "run", {"event": event})

    assert watch.look().phase is phase


@pytest.mark.parametrize("phase", [JobPhase.TIMEOUT, JobPhase.CANCELLED, JobPhase.NODE_FAIL, JobPhase.OUT_OF_MEMORY])
def test_how_a_job_ended_that_could_not_say_it_is_what_the_batch_system_says(tmp_path: Path, phase: JobPhase) -> None:
    watch = watcher(tmp_path / "run", System(phase, reason="so it is"))
    note(tmp_path / "run", {"event": "started"})

    job = watch.look()

    assert (job.phase, job.why, job.is_over, job.exit_code) == (phase, "so it is", True, None)


# A batch system that knows nothing


def test_a_job_that_is_forgotten_before_it_began_was_rejected_as_the_profile_explains(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System(JobPhase.FORGOTTEN), site="aurora")
    note(tmp_path / "run", {"event": "submitted"} | LONG_AGO)

    job = watch.look()

    assert (job.phase, job.is_over) == (JobPhase.REJECTED, True)
    assert job.why == "The routing queue can reject a job after qsub has answered; its id is then an Unknown Job Id."


def test_a_job_that_was_only_just_submitted_may_be_unknown_for_a_while(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System(JobPhase.FORGOTTEN))
    note(tmp_path / "run", {"event": "submitted"})

    assert watch.look().phase is QUEUED


def test_a_job_that_is_forgotten_after_it_began_ended_nobody_knows_how(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System(JobPhase.FORGOTTEN))
    note(tmp_path / "run", {"event": "started"} | LONG_AGO)

    job = watch.look()

    assert (job.phase, job.is_over) == (JobPhase.FORGOTTEN, False)
    assert "did not say how it ended" in job.why


@pytest.mark.parametrize(("event", "phase"), [("submitted", QUEUED), ("started", RUNNING)])
def test_a_batch_system_that_does_not_answer_changes_nothing(tmp_path: Path, event: str, phase: JobPhase) -> None:
    watch = watcher(tmp_path / "run", System(JobPhase.UNKNOWN, reason="squeue did not answer"))
    note(tmp_path / "run", {"event": event} | LONG_AGO)

    job = watch.look()

    assert (job.phase, job.remark) == (phase, "squeue did not answer")


def test_without_a_batch_system_the_script_alone_counts(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", None)
    note(tmp_path / "run", {"event": "submitted"} | LONG_AGO)

    assert watch.look().phase is QUEUED


def test_what_was_run_here_is_never_asked_for(tmp_path: Path) -> None:
    system = System()
    watch = watcher(tmp_path / "run", system, how=How.HERE)
    note(tmp_path / "run", {"event": "started"})

    assert watch.look().phase is RUNNING
    assert system.asked == []


# How often it is asked


def test_a_batch_system_is_asked_again_after_30_s_then_less_and_less_often(tmp_path: Path) -> None:
    system, clock = System(), Clock()
    watch = watcher(tmp_path / "run", system, clock)
    note(tmp_path / "run", {"event": "submitted"})

    asked_at_s = []
    for second in range(3600):
        clock.now_s = float(second)
        before = len(system.asked)
        watch.look()
        asked_at_s += [second] * (len(system.asked) - before)

    pauses = [later - earlier for earlier, later in pairwise(asked_at_s)]
    assert pauses[0] == ASK_EVERY_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == ASK_LEAST_S


def test_it_is_asked_often_again_when_something_has_changed(tmp_path: Path) -> None:
    system, clock = System(), Clock()
    watch = watcher(tmp_path / "run", system, clock)
    note(tmp_path / "run", {"event": "submitted"})
    for second in range(1000):
        clock.now_s = float(second)
        watch.look()

    system.says = RUNNING
    asked = len(system.asked)
    for second in range(1000, 1000 + int(ASK_LEAST_S) + 2 * int(ASK_EVERY_S)):
        clock.now_s = float(second)
        watch.look()

    assert len(system.asked) >= asked + 2


def test_it_is_asked_at_once_after_something_was_done_to_the_job(tmp_path: Path) -> None:
    system = System()
    watch = watcher(tmp_path / "run", system)
    note(tmp_path / "run", {"event": "submitted"})
    watch.look()

    watch.ask_next_time()
    watch.look()

    assert len(system.asked) == 2


# Chains


def test_a_chain_goes_on_with_the_next_job(tmp_path: Path) -> None:
    system = System()
    watch = watcher(tmp_path / "run", system, links=3, next_link="submit")
    note(tmp_path / "run", {"event": "started"}, {"event": "ended", "exit_code": 75})
    between = watch.look()
    note(tmp_path / "run", {"event": "continued", "exit_code": 75, "next_job_id": "78"})

    job = watch.look()

    assert (between.is_over, between.job_id) == (False, "77")
    assert (job.job_id, job.phase, job.link, job.links) == ("78", QUEUED, 2, 3)


def test_a_job_that_went_back_to_the_queue_waits_under_its_old_id(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", System(), links=3, next_link="requeue")
    note(tmp_path / "run", {"event": "started"}, {"event": "ended", "exit_code": 75})
    note(tmp_path / "run", {"event": "continued", "exit_code": 75, "next_job_id": "77"})
    waiting = watch.look()
    note(tmp_path / "run", {"event": "started", "restart": 1})

    running = watch.look()

    assert (waiting.phase, waiting.link) == (QUEUED, 2)
    assert (running.phase, running.link) == (RUNNING, 2)


def test_the_last_link_that_ran_out_of_time_is_the_end(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", None, links=2, next_link="requeue")
    note(tmp_path / "run", {"event": "ended", "exit_code": 75, "restart": 1})

    job = watch.look()

    assert (job.phase, job.is_over) == (JobPhase.TIMEOUT, True)


def test_a_chain_that_could_not_go_on_is_over_after_a_while(tmp_path: Path) -> None:
    watch = watcher(tmp_path / "run", None, links=2, next_link="submit")
    note(tmp_path / "run", {"event": "ended", "exit_code": 75, "time_s": time.time() - 3600})

    assert watch.look().is_over
