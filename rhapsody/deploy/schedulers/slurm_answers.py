"""What the lines of squeue and sacct mean. Source: their manual pages of Slurm 22.05.8."""

from __future__ import annotations

import calendar
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.deploy.schedulers.batch import JobLook, JobPhase

if TYPE_CHECKING:
    from collections.abc import Sequence

SEPARATOR = "\x1f"
"""Between fields; reasons and names of nodes may hold anything that can be seen."""

_WIDTHS = {
    "JobID": 32, "State": 32, "Reason": 512, "exit_code": 32, "StartTime": 32, "EndTime": 32, "NodeList": 4096,
    "RestartCnt": 16,
}  # fmt: skip
SQUEUE_FORMAT = ",".join(f"{name}:{width}{SEPARATOR}" for name, width in _WIDTHS.items())
"""Fields are cut and filled up to these widths. Only --Format knows how often a job was restarted."""

SACCT_FORMAT = "JobIDRaw,State,Reason,ExitCode,Start,End,NodeList,TimelimitRaw"

_PHASES = {
    JobPhase.QUEUED: "PENDING REQUEUED REQUEUE_FED REQUEUE_HOLD RESV_DEL_HOLD SPECIAL_EXIT",
    JobPhase.RUNNING: "RUNNING COMPLETING CONFIGURING RESIZING SIGNALING STAGE_OUT STOPPED SUSPENDED",
    JobPhase.COMPLETED: "COMPLETED",
    JobPhase.FAILED: "FAILED LAUNCH_FAILED RECONFIG_FAIL",
    JobPhase.TIMEOUT: "TIMEOUT DEADLINE",
    JobPhase.CANCELLED: "CANCELLED REVOKED",
    JobPhase.NODE_FAIL: "NODE_FAIL BOOT_FAIL",
    JobPhase.OUT_OF_MEMORY: "OUT_OF_MEMORY",
    JobPhase.PREEMPTED: "PREEMPTED",
}
_PHASE_OF = {word: phase for phase, words in _PHASES.items() for word in words.split()}
_REQUEUES = {"REQUEUED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL"}
"""How a start of a job ends that has another one after it."""

_REASONS = (
    ("Resources", "waits until enough nodes are free"),
    ("Priority", "waits behind jobs of higher priority"),
    ("Dependency", "waits for another job to end"),
    ("DependencyNeverSatisfied", "waits for a job that cannot end as asked: it will never begin, cancel it"),
    ("BeginTime", "may not begin yet"),
    ("JobHeldUser", "is held by its owner: scontrol release lets it go"),
    ("JobHeldAdmin", "is held by the site's operators"),
    ("JobHoldMaxRequeue", "is held, since it was started too often without success"),
    ("launch failed requeued held", "is held, since it could not be started on its nodes"),
    ("ReqNodeNotAvail.*Reserved for maintenance", "waits, since it would not end before a maintenance begins"),
    ("ReqNodeNotAvail.*", "waits for nodes that are down, reserved or kept free"),
    ("Reservation", "waits for its reservation to begin"),
    ("(QOS|Assoc)\\w*(Max|Grp|Limit|Threshold)\\w*", "waits, since a limit of your account or QOS is reached"),
    ("Partition(Down|Inactive)", "waits, since its queue is closed"),
    ("Partition(Node|Time)Limit", "asks for more than its queue gives: it will not begin"),
    ("BadConstraints", "asks for nodes that there are none of: it will not begin"),
    ("Invalid(Account|QOS)", "names an account or QOS that is no longer valid: it will not begin"),
    ("Licenses", "waits for a licence"),
    ("Cleaning", "is cleaned up after before it begins again"),
)
"""Why a job waits."""

_ENDS = (
    ("TimeLimit", "was still running at its time limit"),
    ("NonZeroExitCode", "ended with an exit code other than 0"),
    ("NodeDown", "lost a node"),
    ("OutOfMemory", "used more memory than it had"),
    ("JobLaunchFailure", "could not be started on its nodes, or its script was killed"),
)
"""Why a job ended."""

_NO_TIME = {"", "N/A", "NONE", "None", "Unknown", "UNKNOWN", "INVALID"}


class _Line(NamedTuple):
    """What both commands say of a job, in their words."""

    job_id: str
    state: str
    reason: str
    exit_code: str
    began: str
    ends: str
    nodes: str


def read_squeue(text: str, ids: Sequence[str]) -> dict[str, JobLook]:
    """Return what squeue says of jobs, by id; lines of other jobs are left out."""
    found = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) >= 8 and fields[0] in ids:
            found[fields[0]] = _look(_Line(*fields[:7]), restarts=_count(fields[7]))
    return found


def read_sacct(text: str, ids: Sequence[str]) -> dict[str, JobLook]:
    """Return what sacct says of jobs, by id, after their last start; lines of other jobs are left out."""
    starts: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        fields = [field.strip() for field in line.split(SEPARATOR)]
        if len(fields) >= 8 and fields[0] in ids:
            starts.setdefault(fields[0], []).append(fields)
    return {
        job_id: _look(_Line(*lines[-1][:7]), restarts=_restarts(lines), limit_s=60 * _count(lines[-1][7]))
        for job_id, lines in starts.items()
    }


def _restarts(lines: list[list[str]]) -> int:
    """Return how many starts before the last one ended in a requeue; older jobs may have had the same id."""
    count = 0
    for line in reversed(lines[:-1]):
        if line[1].partition(" ")[0] not in _REQUEUES:
            break
        count += 1
    return count


def _look(line: _Line, restarts: int, limit_s: int = 0) -> JobLook:
    native, _, by_whom = line.state.partition(" ")  # `CANCELLED by 1000`
    native = native.rstrip("+")
    phase = _PHASE_OF.get(native, JobPhase.UNKNOWN)
    began_s, ends_s = _moment(line.began), _moment(line.ends)
    if ends_s is None and began_s is not None and limit_s:
        ends_s = began_s + limit_s
    nodes = "" if line.nodes in {"None assigned", "(null)", "n/a"} else line.nodes
    waits = phase is JobPhase.QUEUED
    never_began = phase.is_over and not nodes  # then Slurm says that it began when it ended
    reason = "" if phase.is_over and _is_of_waiting(line.reason) else readable_reason(line.reason)
    if phase is JobPhase.UNKNOWN:
        reason = f"Slurm says {native!r}, a word that is not known here"
    elif not reason and by_whom:
        reason = f"was cancelled {by_whom.replace('by ', 'by the user with the number ')}"
    return JobLook(
        job_id=line.job_id,
        phase=phase,
        native=native,
        reason=reason,
        nodes=nodes,
        exit_code=_exit_code(line.exit_code, phase),
        began_s=None if waits or never_began else began_s,
        ends_s=None if waits else ends_s,
        starts_s=began_s if waits else None,
        restarts=restarts,
    )


def readable_reason(reason: str) -> str:
    """Return why a job waits or ended, in words and in Slurm's own."""
    if reason in {"", "None", "(null)", "WaitingForScheduling"}:
        return ""
    said = re.sub(r"(?<=[a-z])(?=UnavailableNodes)|, *(?=UnavailableNodes)", ", ", reason)
    for pattern, words in (*_REASONS, *_ENDS):
        if re.fullmatch(pattern, reason, re.IGNORECASE):
            return f"{words} ({said})"
    return said


def _is_of_waiting(reason: str) -> bool:
    """Return whether a reason says why a job waited; one that is cancelled meanwhile keeps it."""
    return any(re.fullmatch(pattern, reason, re.IGNORECASE) for pattern, _ in _REASONS)


def _exit_code(text: str, phase: JobPhase) -> int | None:
    """Return the exit code: sacct writes `code:signal`, squeue the number that wait(2) gives.

    Both write 0 also where a job was ended before it had one.
    """
    if not phase.is_over or not re.fullmatch(r"\d+(:\d+)?", text):
        return None
    if ":" in text:
        code, number = (int(part) for part in text.split(":"))
    else:
        code, number = int(text) >> 8, int(text) & 0x7F
    code = 128 + number if number else code
    return code if code or phase is JobPhase.COMPLETED else None


def _moment(text: str) -> float | None:
    if text in _NO_TIME:
        return None
    try:
        return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S")))
    except ValueError:  # some other word for no moment
        return None


def _count(text: str) -> int:
    return int(text) if text.isdecimal() else 0
