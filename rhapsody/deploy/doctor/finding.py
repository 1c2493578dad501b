"""What `rhapsody doctor` looks at, and what it says of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.login_node import this_host
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.deploy.sites.values import format_size
from rhapsody.deploy.validation.account_check import user_name
from rhapsody.session.machine_commands import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rhapsody.deploy.sites.profile import SiteProfile

BATCH = frozenset({SchedulerKind.SLURM, SchedulerKind.PBS})
"""Kinds whose jobs run on other nodes than the one where they are submitted."""
LIMIT_S = 20.0
"""Seconds that a command may take to answer."""
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID")


class Health(StrEnum):
    """How something is. Ordered: what matters most comes last."""

    OK = "ok"
    CANNOT_TELL = "cannot tell"
    WARNING = "warning"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes:
        name: What was looked at, in a word or two.
        verdict: How it is.
        text: What was found, in a sentence without a full stop.
        fix: What to do; empty only where all is well.
    """

    name: str
    verdict: Health
    text: str
    fix: str = ""


def answer(*command: str) -> str:
    """Return what a command of the machine prints.

    Raises:
        CommandError: It is not there, fails, or does not answer in time.
    """
    return ask(command, limit_s=LIMIT_S)


def ok(name: str, text: str) -> Finding:
    """Return that something is well."""
    return Finding(name, Health.OK, text)


def cannot_tell(name: str, text: str, fix: str) -> Finding:
    """Return that something cannot be known from here."""
    return Finding(name, Health.CANNOT_TELL, text, fix)


def warning(name: str, text: str, fix: str) -> Finding:
    """Return that something may become a trouble."""
    return Finding(name, Health.WARNING, text, fix)


def wrong(name: str, text: str, fix: str) -> Finding:
    """Return that something keeps jobs from working."""
    return Finding(name, Health.WRONG, text, fix)


def rounded(size: int) -> str:
    """Return bytes as people say them: `83.2 GB`."""
    return format_size(size if size < 10**6 else int(float(f"{size:.3g}")))


@dataclass(frozen=True, slots=True)
class Patient:
    """The machine as one user sees it, and what the user wants to do there.

    Attributes:
        runs: Folder of all runs; it need not be there.
        account: Whom jobs are charged to.
        queue: As the profile or the batch system names it.
        image: File or name of a container image.
        environ: Environment of this process.
        root: Where /proc and /sys are found.
        host: Name of this host.
        user: Name of this user.
    """

    runs: Path
    account: str | None = None
    queue: str | None = None
    image: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: Path = Path("/")
    host: str = field(default_factory=this_host)
    user: str = field(default_factory=user_name)

    @property
    def in_job(self) -> bool:
        """Whether this process is in a job: then this is a compute node."""
        return any(self.environ.get(variable) for variable in _JOB_VARIABLES)

    def is_where_jobs_run(self, profile: SiteProfile) -> bool:
        """Return whether what holds for this host holds for those where jobs run."""
        return self.in_job or profile.scheduler.kind is SchedulerKind.LOCAL
