"""PBS Professional and OpenPBS: qsub, qstat, qdel, qsig. Torque is another system, and not supported."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rhapsody.deploy.schedulers import interactive, pbs_answers
from rhapsody.deploy.schedulers.ask import (
    LIMIT_S,
    asking_environ,
    cancel,
    checked_ids,
    missing_commands,
    not_here,
    own_words,
    refused,
    signal_name,
    submitting_environ,
)
from rhapsody.deploy.schedulers.batch import JobLook, JobPhase
from rhapsody.deploy.schedulers.pbs_refusals import PASSING, SPEC
from rhapsody.deploy.script.quoting import check
from rhapsody.errors import BackendError, SpecError
from rhapsody.session.machine_commands import CommandError, CommandFailed, CommandMissing, ask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_UNKNOWN_JOB = re.compile(r"unknown job id", re.IGNORECASE)
_NO_HISTORY = re.compile(r"not configured to maintain job history", re.IGNORECASE)
_OVER = re.compile(r"unknown job id|job has finished|delete already in progress|invalid for state", re.IGNORECASE)
_NOT_YOURS = re.compile(r"unauthorized request", re.IGNORECASE)
_FORGOTTEN = (
    "PBS does not know this job: it ended longer ago than PBS remembers, or a routing queue threw it away because"
    " no queue behind it takes such a job"
)


class Pbs:
    """The commands of OpenPBS and PBS Professional.

    Args:
        limit_s: Seconds that a command may take.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.name = "pbs"
        self.commands: tuple[str, ...] = ("qsub", "qstat", "qdel", "qsig")
        self._limit_s = limit_s

    def missing(self) -> tuple[str, ...]:
        """Return those of `commands` that are not on PATH."""
        return missing_commands(self.commands)

    def submit(self, script: Path) -> str:
        """Queue a script and return the id of its job: see `BatchSystem.submit`."""
        command = ["qsub", str(script)]
        try:
            said = ask(command, limit_s=self._limit_s, environ=submitting_environ(), cwd=script.parent)
        except CommandFailed as exc:
            raise refused("PBS", exc, SPEC, PASSING) from exc
        except CommandMissing as exc:
            raise not_here("PBS", exc) from exc
        try:
            return str(check("after", said.strip().rpartition("\n")[2], "job id"))
        except SpecError as exc:
            raise BackendError(
                f"qsub said {said!r}, which is no job id; see qstat -u $USER whether there is a job"
            ) from exc

    def test(self, script_text: str) -> str:  # noqa: ARG002 - of the contract
        """Refuse: PBS cannot say it.

        Raises:
            SpecError: Always.
        """
        raise SpecError("PBS has no such check; --dry-run shows the script")

    def look(self, job_ids: Sequence[str]) -> dict[str, JobLook]:
        """Return what qstat knows of these jobs: see `BatchSystem.look`."""
        ids = checked_ids(job_ids)
        if not ids:
            return {}
        found, phase, why = self._qstat(ids, history=True)
        return {job_id: found.get(job_id) or JobLook(job_id, phase, reason=why) for job_id in ids}

    def _qstat(self, ids: list[str], *, history: bool) -> tuple[dict[str, JobLook], JobPhase, str]:
        """Return what is known, and how the rest is and why. Where some ids are unknown, qstat answers and fails."""
        command = ["qstat", *(["-x"] if history else []), "-f", "-F", "json", *ids]
        phase, why = JobPhase.FORGOTTEN, _FORGOTTEN
        try:
            said = ask(command, limit_s=self._limit_s, environ=asking_environ())
        except CommandFailed as exc:
            if history and _NO_HISTORY.search(exc.stderr):
                found, phase, why = self._qstat(ids, history=False)
                if phase is JobPhase.FORGOTTEN:
                    why = "PBS does not know this job, and this one does not remember jobs that have ended"
                return found, phase, why
            if not _UNKNOWN_JOB.search(exc.stderr):
                phase, why = JobPhase.UNKNOWN, f"qstat cannot tell: {own_words(exc)}"
            said = exc.stdout
        except CommandError as exc:
            return {}, JobPhase.UNKNOWN, f"qstat cannot tell: {exc}"
        try:
            return pbs_answers.read_jobs(said, ids), phase, why
        except ValueError as exc:
            return {}, JobPhase.UNKNOWN, f"qstat cannot tell: it did not answer in JSON ({exc})"

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal to all processes of a running job: see `BatchSystem.signal`."""
        (job_id,) = checked_ids([job_id])
        ask(["qsig", "-s", signal_name(name), job_id], limit_s=self._limit_s, environ=asking_environ())

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job: see `BatchSystem.cancel`."""
        cancel("qdel", job_id, self._limit_s, not_yours=_NOT_YOURS, over=_OVER)

    def interactive(self, script_text: str) -> list[str]:
        """Return the words of a `qsub -I` command: see `BatchSystem.interactive`."""
        return ["qsub", "-I", *interactive.pbs_words(script_text)]
