"""What every batch system can be asked, whatever its commands are called."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class JobPhase(StrEnum):
    """Where a job stands, in words that all batch systems share.

    REJECTED: a routing queue threw it away. FORGOTTEN: the batch system does not know it, or not any more. UNKNOWN: it
    cannot be asked, or its answer is not understood.
    """

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    NODE_FAIL = "NODE_FAIL"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    PREEMPTED = "PREEMPTED"
    REJECTED = "REJECTED"
    FORGOTTEN = "FORGOTTEN"
    UNKNOWN = "UNKNOWN"

    @property
    def is_over(self) -> bool:
        """Whether the job has ended for good."""
        return self not in {JobPhase.QUEUED, JobPhase.RUNNING, JobPhase.FORGOTTEN, JobPhase.UNKNOWN}


@dataclass(frozen=True, slots=True)
class JobLook:
    """What the batch system says of a job at a moment; moments are in seconds since the epoch.

    Attributes:
        job_id: As it was asked for.
        phase: Where the job stands.
        native: The same in the batch system's own word, such as `TIMEOUT` or `Q`; empty where it knows nothing.
        reason: Why the job waits or ended, for people; empty where nothing is said.
        nodes: Those that the job has or had, as the batch system writes them.
        exit_code: Of the job, once it is over; 128 and the signal's number where a signal ended it.
        began_s: When it began.
        ends_s: When it ends by its time limit, or when it ended.
        starts_s: When it is expected to begin.
        restarts: How often it went back to the queue after it had begun.
    """

    job_id: str
    phase: JobPhase
    native: str = ""
    reason: str = ""
    nodes: str = ""
    exit_code: int | None = None
    began_s: float | None = None
    ends_s: float | None = None
    starts_s: float | None = None
    restarts: int = 0


class BatchSystem(Protocol):
    """The commands of a batch system. A job id that does not look like one is refused before any command is called.

    Attributes:
        name: Such as `slurm`.
        commands: Those without which jobs cannot be submitted and looked at.
    """

    name: str
    commands: tuple[str, ...]

    def missing(self) -> tuple[str, ...]:
        """Return those of `commands` that are not on PATH."""
        ...

    def submit(self, script: Path) -> str:
        """Queue a script and return the id of its job.

        After an error with the batch system's refusal there is no job; where it did not answer there may be one.

        Args:
            script: An absolute path.

        Raises:
            SpecError: The batch system refuses what the script asks for.
            BackendError: It does not take the job now, or does not answer.
        """
        ...

    def test(self, script_text: str) -> str:
        """Return when a job of this script would begin, as a sentence; no job is made.

        Raises:
            SpecError: The batch system would refuse it, or has no such check.
            BackendError: It does not answer.
        """
        ...

    def look(self, job_ids: Sequence[str]) -> dict[str, JobLook]:
        """Return what is known of each of these jobs; of no others.

        It asks once for all, and once more for those that are not known then. That the batch system does not answer is
        no error: what it does not tell is UNKNOWN, with the reason.

        Raises:
            SpecError: A text is no job id.
        """
        ...

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal to the script of a running job.

        Args:
            job_id: Of the job.
            name: Such as `USR1`.

        Raises:
            SpecError: There is no such signal, or the text is no job id.
            BackendError: The batch system does not answer, or the job does not run.
        """
        ...

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job, which comes later; one that has ended already, or is forgotten, is no error.

        Raises:
            SpecError: The text is no job id, or the job is not yours.
            BackendError: The batch system does not answer.
        """
        ...

    def interactive(self, script_text: str) -> list[str]:
        """Return the words of a command that gets an interactive allocation with what this script asks for.

        Raises:
            SpecError: A directive is none.
        """
        ...
