"""How the job of a run is: what its script wrote down, and what the batch system says of it.

The script's own words are there at once and cost nothing. The batch system is asked for what they cannot say, why a job
waits and how one ended that could not say it itself, and rarely: 30 s apart at first, then less and less often.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rhapsody.deploy.records import EventKind, How, last_job_id, read_jobs
from rhapsody.deploy.schedulers.batch import JobLook, JobPhase
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rhapsody.deploy.records import JobEvent, Record

ASK_EVERY_S = 30.0
ASK_LEAST_S = 300.0
BACK_OFF = 1.5
UNHEARD_S = 120.0
"""So long a job that nobody knows may be one that was only just submitted."""
OUT_OF_TIME = 75
CONTINUE_WITHIN_S = 60.0
"""So long after a campaign ran out of time the script may take to queue the next link."""


class Asked(Protocol):
    """What can be asked how jobs are, as a `BatchSystem` can."""

    def look(self, job_ids: Sequence[str]) -> Mapping[str, JobLook]:
        """Return how jobs are, by their ids."""
        ...


@dataclass(frozen=True)
class JobStatus:
    """What one look at a job found.

    Attributes:
        job_id: Of the job that runs the campaign, is to run it, or did last; empty where none was needed.
        phase: How it is.
        why: Why it waits, or how it ended, in words; empty where there is nothing to say.
        link: Which job of a chain it is, from 1.
        links: How many there may be.
        exit_code: Of the campaign, where the script said so; None else.
        look: What the batch system said last; None if it was not asked, or had nothing to say.
        remark: Why it could not be asked; empty if it could.
    """

    job_id: str
    phase: JobPhase
    why: str = ""
    link: int = 1
    links: int = 1
    exit_code: int | None = None
    look: JobLook | None = None
    remark: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing runs any more, nor is to."""
        return self.phase.is_over


class JobWatcher:
    """Looks at the job of one run, again and again.

    Args:
        run_dir: The run folder.
        record: Of its deployment.
        system: To be asked; None where it cannot be, then only the script's words count.
        clock: Seconds that never go back.
    """

    def __init__(
        self, run_dir: Path, record: Record, system: Asked | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir = run_dir
        self._record = record
        self._system = system if record.how is How.BATCH else None
        self._clock = clock
        self._ask_at_s = float("-inf")
        self._pause_s = ASK_EVERY_S
        self._look: JobLook | None = None
        self._remark = ""

    def look(self) -> JobStatus:
        """Return how the job is now.

        Raises:
            SpecError: The run folder cannot be read.
        """
        events = read_jobs(self._run_dir)
        job_id = last_job_id(events) or ""
        last = events[-1] if events else None
        if last is not None and _is_end(last, self._record.script.links):
            return self._status(job_id, last, *_ending(last))
        if self._system is not None and job_id and self._clock() >= self._ask_at_s:
            self._ask(self._system, job_id)
        return self._status(job_id, last, *self._phase(events, job_id))

    def ask_next_time(self) -> None:
        """Ask the batch system at the next look: something was just done to the job."""
        self._ask_at_s = float("-inf")

    def _ask(self, system: Asked, job_id: str) -> None:
        before = self._look
        try:
            self._look = system.look([job_id]).get(job_id)
            unknown = self._look is not None and self._look.phase is JobPhase.UNKNOWN
            self._remark = self._look.reason if self._look is not None and unknown else ""
        except BackendError as exc:
            self._remark = str(exc)
        same = before is not None and self._look is not None and before.phase is self._look.phase
        self._pause_s = min(ASK_LEAST_S, self._pause_s * BACK_OFF) if same else ASK_EVERY_S
        self._ask_at_s = self._clock() + self._pause_s

    def _phase(self, events: tuple[JobEvent, ...], job_id: str) -> tuple[JobPhase, str]:
        """Return how a job is that has not said that it ended."""
        mine = [event for event in events if event.job_id == job_id]
        began = any(event.kind is EventKind.STARTED for event in mine) and events[-1].kind is not EventKind.CONTINUED
        look = self._look if self._look is not None and self._look.job_id == job_id else None
        if look is None or look.phase in {JobPhase.UNKNOWN, JobPhase.FORGOTTEN}:
            return self._guess(look, began=began, since_s=events[-1].time_s if events else time.time())
        if look.phase is JobPhase.QUEUED and began:  # it began after it was asked for
            return JobPhase.RUNNING, ""
        return look.phase, look.reason

    def _guess(self, look: JobLook | None, *, began: bool, since_s: float) -> tuple[JobPhase, str]:
        """Return how a job is of which the batch system says nothing."""
        if look is None or look.phase is JobPhase.UNKNOWN or time.time() - since_s < UNHEARD_S:
            return (JobPhase.RUNNING if began else JobPhase.QUEUED), ""
        if began:
            return JobPhase.FORGOTTEN, f"{look.reason}; its script did not say how it ended".removeprefix("; ")
        hint = self._record.profile.scheduler.reject_message
        return JobPhase.REJECTED, hint or "the batch system does not know it any more, and it never began"

    def _status(self, job_id: str, last: JobEvent | None, phase: JobPhase, why: str) -> JobStatus:
        link = 1 if last is None else max(last.link, last.link + last.restart)
        if last is not None and last.kind is EventKind.CONTINUED:
            link += 1
        return JobStatus(
            job_id=job_id,
            phase=phase,
            why=why,
            link=link,
            links=self._record.script.links,
            exit_code=last.exit_code if last is not None and phase.is_over else None,
            look=self._look,
            remark=self._remark,
        )


def _is_end(event: JobEvent, links: int) -> bool:
    """Return whether nothing follows an event of a job."""
    if event.kind in {EventKind.FAILED, EventKind.CANCELED}:
        return True
    if event.kind is not EventKind.ENDED:
        return False
    may_continue = event.exit_code == OUT_OF_TIME and event.link + event.restart < links
    return not may_continue or time.time() - event.time_s > CONTINUE_WITHIN_S


def _ending(event: JobEvent) -> tuple[JobPhase, str]:
    if event.kind is EventKind.CANCELED:
        return JobPhase.CANCELLED, "it was taken out of the queue"
    if event.kind is EventKind.FAILED:
        return JobPhase.FAILED, "the script could not begin the campaign; rhapsody logs shows why"
    if event.exit_code == 0:
        return JobPhase.COMPLETED, ""
    if event.exit_code == OUT_OF_TIME:
        return JobPhase.TIMEOUT, "the time was over before all was done"
    return JobPhase.FAILED, f"exit code {event.exit_code}"
