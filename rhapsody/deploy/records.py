"""What a run folder keeps of its deployment, in `deploy/`.

`request.json` is what was asked for, `job.sh` the script that it became, `jobs` what happened to its jobs: a line of
JSON each, written by `rhapsody deploy` when it has submitted one and by the script itself while it runs.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rhapsody.deploy.script.request import ScriptRequest
from rhapsody.deploy.sites.profile import SiteProfile
from rhapsody.errors import SpecError
from rhapsody.model.allocation import FrozenModel
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REQUEST, SCRIPT, JOBS = "request.json", "job.sh", "jobs"


class How(StrEnum):
    """What became of a script."""

    BATCH = "batch"
    """It was submitted."""
    HERE = "here"
    """It was run in a job that was there already."""
    LOCAL = "local"
    """It was run without any batch system."""


class Cost(FrozenModel):
    """What all links of a deployment cost at most.

    Attributes:
        amount: In the unit.
        unit: The site's; `node-hours` where that is not known.
    """

    amount: float
    unit: str


class Record(FrozenModel):
    """One deployment, as it was asked for.

    Attributes:
        version: Of RHAPSODY.
        submitted_s: When, in seconds since the epoch.
        how: Whether it was submitted.
        campaign: Path of the campaign file.
        args: Passed to it.
        queue: As the user names it; None where none was.
        cost: None where it cannot be known.
        image_digest: `sha256:…` of an image that is a file.
        script: What the script was made from.
        profile: The site, as it was known then.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    version: str
    submitted_s: float
    how: How
    campaign: str
    args: tuple[str, ...] = ()
    queue: str | None = None
    cost: Cost | None = None
    image_digest: str | None = None
    script: ScriptRequest
    profile: SiteProfile


class EventKind(StrEnum):
    """What happened to a job."""

    SUBMITTED = "submitted"
    STARTED = "started"
    FAILED = "failed"
    """The script could not begin the campaign."""
    ENDED = "ended"
    CANCELED = "canceled"
    """It was taken out of the queue before it began."""
    CONTINUED = "continued"
    """It has put the next link into the queue."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of `jobs`.

    Attributes:
        time_s: When, in seconds since the epoch.
        job_id: Of the job that it happened to.
        kind: What happened.
        link: Which job of a chain it is, from 1.
        restart: How often the batch system has started it anew.
        exit_code: Of the campaign, where it has ended.
        next_job_id: Of the next link; empty where there is none, or its id is not known.
    """

    time_s: float
    job_id: str
    kind: EventKind
    link: int = 1
    restart: int = 0
    exit_code: int | None = None
    next_job_id: str = ""


def write_record(run_dir: Path, record: Record, script: str) -> None:
    """Write what was asked for, and the script.

    Raises:
        SpecError: It cannot be written.
    """
    folder = run_dir / "deploy"
    try:
        write_whole(folder / REQUEST, record.model_dump_json(by_alias=True, indent=1).encode())
        write_whole(folder / SCRIPT, script.encode(errors="surrogateescape"), mode=0o700)
    except OSError as exc:
        raise SpecError(f"cannot write into {folder}: {exc.strerror}; choose another place with --runs") from exc


def read_record(run_dir: Path) -> Record | None:
    """Return what was asked for; None for a run that was not deployed.

    Raises:
        SpecError: It cannot be read, or is damaged.
    """
    path = run_dir / "deploy" / REQUEST
    try:
        return Record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SpecError(f"cannot read {path}: {exc.strerror}; ask its owner for access") from exc
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise SpecError(f"{path} is damaged: {where}: {first['msg']}; move it away to look at the run alone") from exc


def note_event(run_dir: Path, job_id: str, kind: EventKind, link: int = 1) -> None:
    """Add to `jobs` what was done with one.

    Raises:
        OSError: It cannot be written.
    """
    fields = {"time_s": round(time.time(), 3), "job_id": job_id, "link": link, "restart": 0, "event": str(kind)}
    with (run_dir / "deploy" / JOBS).open("a") as file:
        file.write(f"{json.dumps(fields)}\n")


def read_jobs(run_dir: Path) -> tuple[JobEvent, ...]:
    """Return what happened to the jobs of a deployment, in the order of time; lines that a crash has torn are left out.

    Raises:
        SpecError: It cannot be read.
    """
    path = run_dir / "deploy" / JOBS
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    except OSError as exc:
        raise SpecError(f"cannot read {path}: {exc.strerror}; ask its owner for access") from exc
    return tuple(_events(lines))


def _events(lines: list[str]) -> Iterator[JobEvent]:
    for line in lines:
        try:
            fields: dict[str, Any] = json.loads(line)
            yield JobEvent(
                time_s=float(fields["time_s"]),
                job_id=str(fields["job_id"]),
                kind=EventKind(fields["event"]),
                link=int(fields.get("link", 1)),
                restart=int(fields.get("restart", 0)),
                exit_code=fields["exit_code"] if isinstance(fields.get("exit_code"), int) else None,
                next_job_id=str(fields.get("next_job_id", "")),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            continue


def last_job_id(events: tuple[JobEvent, ...]) -> str | None:
    """Return the id of the job that runs a deployment, is to run it, or did last; None when none was submitted."""
    for event in reversed(events):
        if event.kind is EventKind.CONTINUED and event.next_job_id:
            return event.next_job_id
        if event.job_id:
            return event.job_id
    return None


def has_job(run_dir: Path, job_id: str) -> bool:
    """Return whether a job ran a run, or is to run it; of `123.server` the number is enough."""
    try:
        events = read_jobs(run_dir)
    except SpecError:  # of somebody else: not the one that is meant
        return False
    ids = {each for event in events for each in (event.job_id, event.next_job_id)} - {""}
    return job_id in ids or job_id in {each.partition(".")[0] for each in ids}
