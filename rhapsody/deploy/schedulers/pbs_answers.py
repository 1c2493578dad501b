"""What `qstat -f -F json` means. Source: qstat(1B) and job.h of OpenPBS 23.06, checked 2026-11."""

from __future__ import annotations

import calendar
import json
import re
import time
from typing import TYPE_CHECKING, Any

from rhapsody.deploy.schedulers.batch import JobLook, JobPhase
from rhapsody.errors import SpecError
from rhapsody.session.deadline import parse_walltime

if TYPE_CHECKING:
    from collections.abc import Sequence

Job = dict[str, Any]

_QUEUED = {
    "H": "is held",
    "Q": "",
    "S": "is suspended",
    "T": "is on its way to another queue",
    "W": "may not begin yet",
}
_QUEUED["U"] = "is suspended, since someone works on its node"
_RUNNING = set("REB")
_OVER = set("FXC")
_BARE_VALUE = re.compile(r'(?m)^(\s*"[^"\n]*":)(?!\s*["{\[])([^,\n]*?)(,?)\s*$')
_TERMINATED = 91
"""Substate of a job that was deleted."""

# Negative exit codes are PBS's own.
_ENDS = {
    -4: (JobPhase.NODE_FAIL, "its first node was restarted"),
    -5: (JobPhase.NODE_FAIL, "its first node was restarted"),
    -6: (JobPhase.NODE_FAIL, "its first node was restarted"),
    -20: (JobPhase.NODE_FAIL, "its first node was lost"),
    -24: (JobPhase.FAILED, "it used more cores than it had"),
    -25: (JobPhase.FAILED, "it used more cores than it had"),
    -26: (JobPhase.OUT_OF_MEMORY, "it used more virtual memory than it had"),
    -27: (JobPhase.OUT_OF_MEMORY, "it used more memory than it had"),
    -28: (JobPhase.FAILED, "it used more CPU time than it had"),
    -29: (JobPhase.TIMEOUT, "it was still running at its time limit"),
}
_REJECTED = re.compile(r"rejected by all possible destinations|route queue lifetime exceeded", re.IGNORECASE)
_DELETED = re.compile(r"\bterminated\b|\bdeleted\b", re.IGNORECASE)


def read_jobs(text: str, ids: Sequence[str]) -> dict[str, JobLook]:
    """Return what qstat says of jobs, by the ids that were asked for; other jobs are left out.

    Raises:
        ValueError: It is not what qstat writes.
    """
    jobs = _parse(text).get("Jobs", {}) if text.strip() else {}
    found = {}
    for job_id in ids:
        for name, job in jobs.items():
            if name == job_id or name.startswith(f"{job_id}.") or job_id.startswith(f"{name}."):
                found[job_id] = _look(job_id, job)
    return found


def _parse(text: str) -> Job:
    """Return the answer: JSON but for control characters, and for values such as 007 or 1:30 without quotes."""
    try:
        found = json.loads(text, strict=False)
    except ValueError:
        found = json.loads(
            _BARE_VALUE.sub(lambda line: line[1] + _as_json(line[2].strip()) + line[3], text), strict=False
        )
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - as for a text that is no JSON
    return found


def _as_json(value: str) -> str:
    try:
        json.loads(value)
    except ValueError:
        return json.dumps(value)
    return value


def _look(job_id: str, job: Job) -> JobLook:
    native, comment = str(job.get("job_state", "")), str(job.get("comment", "")).strip()
    shared: dict[str, Any] = {"native": native, "nodes": str(job.get("exec_host", "")), "restarts": _restarts(job)}
    began_s = _moment(job.get("stime"))
    if native in _QUEUED:
        why = "; ".join(filter(None, (_QUEUED[native], comment)))
        estimated = job.get("estimated")
        starts_s = _moment(estimated.get("start_time")) if isinstance(estimated, dict) else None
        return JobLook(job_id, JobPhase.QUEUED, reason=why, starts_s=starts_s, **shared)
    if native in _RUNNING:
        return JobLook(job_id, JobPhase.RUNNING, began_s=began_s, ends_s=_end_by_limit(job, began_s), **shared)
    if native not in _OVER:
        why = "PBS has moved it to another server" if native == "M" else f"PBS says {native!r}, a state not known here"
        return JobLook(job_id, JobPhase.UNKNOWN, reason=why, **shared)
    phase, reason = _end(job, comment)
    ended = next((job[key] for key in ("obittime", "history_timestamp", "mtime") if key in job), None)
    exit_code = _exit_code(job) if phase is not JobPhase.CANCELLED or began_s is not None else None
    return JobLook(job_id, phase, reason=reason, exit_code=exit_code, began_s=began_s, ends_s=_moment(ended), **shared)


def _end(job: Job, comment: str) -> tuple[JobPhase, str]:
    status = _number(job.get("Exit_status"))
    if _REJECTED.search(comment):
        return JobPhase.REJECTED, comment
    if status in _ENDS:
        phase, why = _ENDS[status]
        return phase, f"{why} ({comment or f'Exit_status {status}'})"
    if _number(job.get("substate")) == _TERMINATED or (_DELETED.search(comment) and (status is None or status >= 256)):
        return JobPhase.CANCELLED, comment or "it was deleted"
    if status == 0:
        return JobPhase.COMPLETED, ""
    if status is not None and status < 0:
        return JobPhase.FAILED, f"PBS could not start it, or gave it up ({comment or f'Exit_status {status}'})"
    return JobPhase.FAILED, comment


def _exit_code(job: Job) -> int | None:
    """Return the exit code; PBS adds 256 to the number of a signal, and its own codes are negative."""
    status = _number(job.get("Exit_status"))
    if status is None or status < 0:
        return None
    return 128 + status - 256 if status >= 256 else status


def _restarts(job: Job) -> int:
    return max(0, (_number(job.get("run_count")) or 0) - 1)


def _end_by_limit(job: Job, began_s: float | None) -> float | None:
    limits = job.get("Resource_List")
    limit = limits.get("walltime") if isinstance(limits, dict) else None
    if began_s is None or limit is None:
        return None
    try:
        return began_s + (float(limit) if isinstance(limit, int | float) else parse_walltime(str(limit)))
    except SpecError:  # a limit that cannot be read is as good as none
        return None


def _moment(value: object) -> float | None:
    """Return a moment: PBS writes some as ctime(3) does, in UTC here, others in seconds since the epoch."""
    if isinstance(value, int | float):
        return float(value) or None
    try:
        return float(calendar.timegm(time.strptime(str(value), "%a %b %d %H:%M:%S %Y")))
    except ValueError:
        return None


def _number(value: object) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None
