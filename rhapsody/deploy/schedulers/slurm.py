"""Slurm: sbatch, squeue, sacct, scancel."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rhapsody.deploy.schedulers import interactive, slurm_answers
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
from rhapsody.deploy.schedulers.slurm_refusals import PASSING, SPEC
from rhapsody.deploy.script.quoting import check
from rhapsody.errors import BackendError, SpecError
from rhapsody.session.machine_commands import (
    CommandError,
    CommandFailed,
    CommandLate,
    CommandMissing,
    Said,
    ask,
    ask_both,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_SIGNAL_LIMIT_S = 20.0
"""For a job that waits, scancel goes on trying: seen with Slurm 22.05.8, 2026-11."""
_FORGOTTEN = re.compile(
    r"invalid job id|already completing or completed|already finished|job has already", re.IGNORECASE
)
_NOT_YOURS = re.compile(r"permission denied|invalid user id", re.IGNORECASE)
_NO_ACCOUNTING = re.compile(r"accounting storage is disabled|slurm_persist|accounting_storage/none", re.IGNORECASE)
_TEST = re.compile(r"Job \d+ to start at (\d{4}-\d\d-\d\d)T(\d\d:\d\d):\d\d (.+)")


class Slurm:
    """The commands of Slurm, 22.05 or later.

    Args:
        limit_s: Seconds that a command may take.
    """

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.name = "slurm"
        self.commands: tuple[str, ...] = ("sbatch", "squeue", "scancel")
        self._limit_s = limit_s

    def missing(self) -> tuple[str, ...]:
        """Return those of `commands` that are not on PATH; sacct may be missing."""
        return missing_commands(self.commands)

    def submit(self, script: Path) -> str:
        """Queue a script and return the id of its job: see `BatchSystem.submit`."""
        said = self._submit(["sbatch", "--parsable", str(script)], submitting_environ(), cwd=script.parent).stdout
        job_id = (
            said.strip().rpartition("\n")[2].partition(";")[0]
        )  # behind it stands a cluster, where there are several
        try:
            return str(check("after", job_id, "job id"))
        except SpecError as exc:
            raise BackendError(
                f"sbatch said {said!r}, which is no job id; see squeue --me whether there is a job"
            ) from exc

    def test(self, script_text: str) -> str:
        """Return when a job of this script would begin: see `BatchSystem.test`."""
        said = self._submit(["sbatch", "--test-only"], asking_environ(), stdin=script_text)
        found = _TEST.search(said.stderr)
        if not found:
            return f"Slurm would take this job. It said: {said.stderr.strip()}"
        return f"Slurm would take this job. It would begin at {found[1]} {found[2]} UTC, {found[3].strip()}."

    def _submit(self, command: list[str], environ: Mapping[str, str], stdin: str = "", cwd: Path | None = None) -> Said:
        try:
            return ask_both(command, limit_s=self._limit_s, environ=environ, stdin=stdin, cwd=cwd)
        except CommandFailed as exc:
            raise refused("Slurm", exc, SPEC, PASSING) from exc
        except CommandMissing as exc:
            raise not_here("Slurm", exc) from exc

    def look(self, job_ids: Sequence[str]) -> dict[str, JobLook]:
        """Return what squeue, and for the rest sacct, knows of these jobs: see `BatchSystem.look`."""
        ids = checked_ids(job_ids)
        if not ids:
            return {}
        found, trouble = self._squeue(ids)
        rest = [job_id for job_id in ids if job_id not in found]
        if rest:
            known, why_not = self._sacct(rest)
            found |= known
            why = "; ".join(filter(None, (trouble, why_not))) or "Slurm does not know this job"
            phase = JobPhase.UNKNOWN if trouble else JobPhase.FORGOTTEN
            found |= {job_id: JobLook(job_id, phase, reason=why) for job_id in rest if job_id not in known}
        return {job_id: found[job_id] for job_id in ids}

    def _squeue(self, ids: list[str]) -> tuple[dict[str, JobLook], str]:
        # For one id that it has forgotten, it fails; among several, it leaves out those.
        command = ["squeue", "--noheader", "--states=all", f"--jobs={','.join(ids)}"]
        try:
            said = ask(
                [*command, f"--Format={slurm_answers.SQUEUE_FORMAT}"], limit_s=self._limit_s, environ=asking_environ()
            )
        except CommandFailed as exc:
            return {}, "" if _FORGOTTEN.search(exc.stderr) else f"squeue cannot tell: {own_words(exc)}"
        except CommandError as exc:
            return {}, f"squeue cannot tell: {exc}"
        return slurm_answers.read_squeue(said, ids), ""

    def _sacct(self, ids: list[str]) -> tuple[dict[str, JobLook], str]:
        # With --duplicates, each start of a job that was requeued is a line.
        command = ["sacct", "--allocations", "--parsable2", "--noheader", "--duplicates", f"--jobs={','.join(ids)}"]
        command += [f"--delimiter={slurm_answers.SEPARATOR}", f"--format={slurm_answers.SACCT_FORMAT}"]
        try:
            said = ask(command, limit_s=self._limit_s, environ=asking_environ())
        except CommandMissing:
            return {}, "squeue does not know this job, and sacct is not on this machine"
        except CommandFailed as exc:
            if _NO_ACCOUNTING.search(exc.stderr):
                return {}, "squeue does not know this job, and this Slurm keeps no accounts of jobs that have ended"
            return {}, f"sacct cannot tell: {own_words(exc)}"
        except CommandError as exc:
            return {}, f"sacct cannot tell: {exc}"
        return slurm_answers.read_sacct(said, ids), ""

    def signal(self, job_id: str, name: str) -> None:
        """Send a signal to the script of a running job, not to its steps: see `BatchSystem.signal`."""
        (job_id,) = checked_ids([job_id])
        command = ["scancel", "--batch", f"--signal={signal_name(name)}", job_id]
        try:
            ask(command, limit_s=min(self._limit_s, _SIGNAL_LIMIT_S), environ=asking_environ())
        except CommandLate as exc:
            raise BackendError(f"{exc}; the job may not have begun yet: squeue -j {job_id}") from exc

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job: see `BatchSystem.cancel`."""
        cancel("scancel", job_id, self._limit_s, not_yours=_NOT_YOURS, over=_FORGOTTEN)

    def interactive(self, script_text: str) -> list[str]:
        """Return the words of a salloc command: see `BatchSystem.interactive`."""
        return ["salloc", *interactive.slurm_words(script_text)]
