"""What becomes of a plan: a job in the queue, or a campaign that runs here."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from rhapsody.deploy.login_node import known_login_node, this_host
from rhapsody.deploy.records import SCRIPT, EventKind, note_event, write_record
from rhapsody.errors import SpecError
from rhapsody.node.processes import die_with_parent
from rhapsody.session.run_folder import make_run_folder, write_description

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.planning import Plan
    from rhapsody.deploy.schedulers.batch import BatchSystem
    from rhapsody.deploy.sites.profile import SiteProfile

_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


def refuse_on_login_node(*, insisted: bool) -> None:
    """Refuse to run a campaign where many people log in.

    Args:
        insisted: The user knows, and wants it.

    Raises:
        SpecError: This host is a login node that a profile knows.
    """
    host = this_host()
    site = None if insisted else known_login_node(host)
    if site is None:
        return
    rules = "".join(f"\n  {rule}" for rule in site.login_node.rules) if site.login_node else ""
    raise SpecError(
        f"this machine ({host}) is a login node of {site.name}, where campaigns do not belong{rules}\nsubmit a job with"
        f" --site {site.name}; if it is small and you may, add --on-login-node"
    )


def require_commands(profile: SiteProfile, system: BatchSystem, shown_command: str) -> None:
    """Refuse to submit from a machine that lacks the batch system's commands.

    Args:
        profile: The site.
        system: Its batch system.
        shown_command: What the user typed, to be typed there.

    Raises:
        SpecError: One is missing; the text says where the command belongs.
    """
    missing = system.missing()
    if not missing:
        return
    address = profile.login_node.address if profile.login_node else None
    where = f"log in there (ssh YOU@{address})" if address else "log in to one of its login nodes"
    absent = " and no ".join(missing)
    raise SpecError(
        f"this machine ({socket.gethostname()}) cannot submit jobs to {profile.name}: there is no {absent} on PATH\n"
        f"jobs are submitted on the machine itself: {where}, install rhapsody-hpc there, and give the same command:\n"
        f"  {shown_command}\nhere, --dry-run shows the script, and --site local runs the campaign on this machine"
    )


def submit(plan: Plan, system: BatchSystem) -> str:
    """Make the run folder, submit the script, and return the job's id; after a refusal nothing is left.

    Raises:
        SpecError: The folder cannot be made, or the batch system refuses such a job.
        BackendError: The batch system does not take it now.
    """
    script = _prepare(plan)
    try:
        job_id = system.submit(script)
    except BaseException:  # Ctrl-C too: a run folder without a job would look as if it waited
        shutil.rmtree(plan.run_dir, ignore_errors=True)
        raise
    note_event(plan.run_dir, job_id, EventKind.SUBMITTED)
    return job_id


def submit_again(run_dir: Path, system: BatchSystem) -> str:
    """Submit the script of a run once more, and return the job's id.

    Raises:
        SpecError: The batch system refuses such a job.
        BackendError: The batch system does not take it now.
    """
    job_id = system.submit(run_dir / "deploy" / SCRIPT)
    note_event(run_dir, job_id, EventKind.SUBMITTED)
    return job_id


def run_here(plan: Plan) -> int:
    """Run the script in this job, or on this machine, to its end; return the campaign's exit code.

    Signals are handed on to it. It ends when this process does, however that is.

    Raises:
        SpecError: The folder cannot be made.
    """
    script = _prepare(plan)
    started: list[subprocess.Popen[bytes]] = []
    # Before the start: what is ignored here, as SIGINT in the background is, bash could not hear.
    before = {number: signal.signal(number, lambda got, _frame: _hand_on(started, got)) for number in _HANDED_ON}
    try:
        started.append(_start(script))
        code = started[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _start(script: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - the script was just made, and everything in it is quoted
        ["bash", "-l", str(script)],  # noqa: S607 - the system's own
        start_new_session=True,  # what the terminal sends is handed on once, not twice
        preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - this process has one thread
    )


def _hand_on(started: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in started:
        if process.poll() is None:
            os.kill(process.pid, number)


def _prepare(plan: Plan) -> Path:
    """Make the run folder with all that is kept of the deployment, and return the script's path."""
    record = plan.record()  # reads the image first: that may take long, and may fail
    folder = make_run_folder(plan.run_dir)
    description = {
        "schema": 1,
        "uid": folder.name,
        "name": plan.order.name or plan.order.campaign.stem,
        "campaign": record.campaign,
        "args": list(record.args),
        "site": record.profile.name,
        "submitted_ns": time.time_ns(),
    }
    write_record(folder, record, plan.text)
    write_description(folder, description)
    return folder / "deploy" / SCRIPT
