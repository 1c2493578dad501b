"""When the allocation ends: what the user says of it, and what the batch system says."""

from __future__ import annotations

import asyncio
import calendar
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from rhapsody.errors import SpecError
from rhapsody.model.time_left import DEADLINE_VARIABLE, parse_deadline
from rhapsody.session.machine_commands import CommandError, ask, plain_answers

COMMAND_LIMIT_S = 10.0
"""Seconds that a command of the batch system may take to answer."""

_UNITS = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_CLOCK = re.compile(r"(?:(?:(\d+)-)?(\d+):(?=[0-5]\d:))?(\d+):([0-5]\d)")

Environ = Mapping[str, str]


class Deadline(NamedTuple):
    """An end that is known.

    Attributes:
        at_s: When, in seconds since the epoch.
        source: Who says so, for people.
    """

    at_s: float
    source: str


class _NoAnswerError(Exception):
    """The batch system did not say when its job ends; the text says why."""


async def find_deadline(walltime_s: float | None, opened_s: float, environ: Environ) -> tuple[Deadline | None, str]:
    """Return when the allocation ends, the earliest if there are several; and what is to be said if it cannot be known.

    Args:
        walltime_s: What the user gives the session, from its opening on.
        opened_s: That moment, in seconds since the epoch.
        environ: The session's environment.

    Raises:
        SpecError: A variable holds nonsense, or a moment of the past.
    """
    known: list[Deadline] = []
    remark = ""
    if walltime_s is not None:
        known.append(Deadline(opened_s + walltime_s, "walltime"))
    if text := environ.get(DEADLINE_VARIABLE):
        known.append(Deadline(parse_deadline(text), DEADLINE_VARIABLE))
        if known[-1].at_s <= opened_s:
            raise SpecError(f"{DEADLINE_VARIABLE}={text!r} was {duration(opened_s - known[-1].at_s)} ago; unset it")
    try:
        found = await asyncio.to_thread(_ask_batch_system, environ, opened_s)
    except _NoAnswerError as exc:
        if DEADLINE_VARIABLE not in environ:  # the job's script knows it; a container lacks the batch system's commands
            remark = f"when the allocation ends is not known: {exc}; if you know it, give --walltime"
    else:
        known += [found] if found is not None else []
    return min(known, default=None), remark


def _ask_batch_system(environ: Environ, opened_s: float) -> Deadline | None:
    for variables, ask_it in _BATCH_SYSTEMS:
        if any(environ.get(variable) for variable in variables):
            found = ask_it(environ, opened_s)
            if found is not None and found.at_s <= opened_s:
                raise _NoAnswerError(f"by {found.source} it ended {duration(opened_s - found.at_s)} ago")
            return found
    return None


# Batch systems


def _slurm(environ: Environ, _opened_s: float) -> Deadline | None:
    # Source: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES". Jobs of Slurm 22.05 do not have the variable, squeue answers
    # there: seen 2026-11.
    if environ.get("SLURM_JOB_END_TIME"):
        return Deadline(_number_in(environ, "SLURM_JOB_END_TIME"), "SLURM_JOB_END_TIME")
    command = ["squeue", "-h", "-j", environ["SLURM_JOB_ID"], "-o", "%e"]
    said = _answer(command, environ)
    if said in ("N/A", "NONE", "Unknown", ""):
        return None  # the job has no limit
    try:
        return Deadline(calendar.timegm(time.strptime(said, "%Y-%m-%dT%H:%M:%S")), "squeue")
    except ValueError as exc:
        raise _NoAnswerError(f"`{' '.join(command)}` said {said!r}") from exc


def _pbs(environ: Environ, opened_s: float) -> Deadline | None:
    if environ.get("PBS_WALLTIME"):  # of Torque, in seconds. Source: Torque 6.1 "Exported batch environment variables"
        return Deadline(_job_began_s(opened_s) + _number_in(environ, "PBS_WALLTIME"), "PBS_WALLTIME")
    # Source: qstat(1B) of OpenPBS 23.06; dates there are as ctime(3) writes them.
    command = ["qstat", "-f", "-F", "json", environ["PBS_JOBID"]]
    said = _answer(command, environ)
    try:
        (job,) = json.loads(said, strict=False)["Jobs"].values()
        limit = job["Resource_List"].get("walltime")
        return None if limit is None else Deadline(_moment_of(job["stime"]) + parse_walltime(limit), "qstat")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise _NoAnswerError(f"`{' '.join(command)}` did not say when the job began and how long it may take") from exc


def _moment_of(stime: str | float) -> float:
    return calendar.timegm(time.strptime(stime, "%a %b %d %H:%M:%S %Y")) if isinstance(stime, str) else stime


def _job_began_s(opened_s: float) -> float:
    """Return when the first process of this one's session began, which for a job is its shell."""
    try:
        fields = Path(f"/proc/{os.getsid(0)}/stat").read_text().rpartition(")")[2].split()
        since_boot_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return min(opened_s, time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s)
    except OSError:  # it is outside of this container
        return opened_s


def _cobalt(environ: Environ, _opened_s: float) -> Deadline | None:
    # Source: ALCF user guides on the variables of Cobalt jobs.
    return Deadline(_number_in(environ, "COBALT_ENDTIME"), "COBALT_ENDTIME")


def _flux(environ: Environ, _opened_s: float) -> Deadline | None:
    # Source: flux-job(1) of flux-core 0.60: seconds, "infinity" where there is no limit.
    said = _answer(["flux", "job", "timeleft"], environ)
    try:
        left_s = float(said)
    except ValueError as exc:
        raise _NoAnswerError(f"`flux job timeleft` said {said!r}") from exc
    return Deadline(time.time() + left_s, "flux job timeleft") if math.isfinite(left_s) else None


def _lsf(environ: Environ, _opened_s: float) -> Deadline | None:
    # Source: IBM Spectrum LSF 10.1, bjobs -o and -WL: hours:minutes, and L for the hard limit; checked 2026-11.
    index = environ.get("LSB_JOBINDEX", "0")
    job = environ["LSB_JOBID"] + (f"[{index}]" if index != "0" else "")
    said = _answer(["bjobs", "-noheader", "-o", "time_left", job], environ)
    found = re.fullmatch(r"(\d+):(\d+) L", said)
    return Deadline(time.time() + 3600 * int(found[1]) + 60 * int(found[2]), "bjobs") if found else None


_BATCH_SYSTEMS: list[tuple[tuple[str, ...], Callable[[Environ, float], Deadline | None]]] = [
    (("SLURM_JOB_END_TIME", "SLURM_JOB_ID"), _slurm),
    (("PBS_WALLTIME", "PBS_JOBID"), _pbs),
    (("COBALT_ENDTIME",), _cobalt),
    (("FLUX_JOB_ID", "FLUX_URI"), _flux),
    (("LSB_JOBID",), _lsf),
]
"""Variables, one of which a job of the batch system has, and who asks it. The first that fits is asked."""


def _answer(command: list[str], environ: Environ) -> str:
    """Return what a command says, moments in UTC."""
    try:
        return ask(command, limit_s=COMMAND_LIMIT_S, environ=plain_answers(environ)).strip()
    except CommandError as exc:
        raise _NoAnswerError(str(exc)) from exc


def _number_in(environ: Environ, variable: str) -> float:
    text = environ[variable].strip()
    if not text.isdecimal():
        raise SpecError(f"{variable}={text!r} is no whole number of seconds; unset it, or correct it")
    return float(text)


# Texts


def parse_walltime(text: str) -> float:
    """Return the seconds of a duration as people write it: `1h30m`, or as Slurm does: `1:30:00`.

    Raises:
        SpecError: It is no duration, or none that takes any time.
    """
    found = _UNITS.fullmatch(text.strip()) or _CLOCK.fullmatch(text.strip())
    days, hours, minutes, seconds = (int(group or 0) for group in found.groups()) if found else (0, 0, 0, 0)
    total_s = 86_400 * days + 3_600 * hours + 60 * minutes + seconds
    if not total_s:
        raise SpecError(
            f"{text!r} is no duration; write it like 2h, 90m, 1h30m, 45s, 1:30:00, 30:00 (minutes and seconds) or"
            " 1-12:00:00 (a day and a half)"
        )
    return float(total_s)


def duration(seconds: float) -> str:
    """Render a duration in the two units that matter."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
