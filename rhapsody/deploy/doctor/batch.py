"""The batch system: are its commands there, does it answer, does it know the account and the queues?"""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from rhapsody.deploy.doctor.finding import Finding, Health, answer, cannot_tell, ok, warning, wrong
from rhapsody.deploy.doctor.limits import limits
from rhapsody.deploy.schedulers.choice import batch_system
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.deploy.validation.account_check import check_account
from rhapsody.deploy.validation.accounts import Verdict
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile

_TITLES = {SchedulerKind.SLURM: "Slurm", SchedulerKind.PBS: "PBS", SchedulerKind.KUBERNETES: "Kubernetes"}
_HERE = "run this where you submit jobs"
_ACCOUNT_FIXES = {
    Verdict.OK: "",
    Verdict.WRONG: "name one of yours with -A, or ask the facility to add you to this one",
    Verdict.CANNOT_TELL: "ask the facility; if it is wrong, the batch system says so when a job is submitted",
}
_VERDICTS = {Verdict.OK: Health.OK, Verdict.WRONG: Health.WRONG, Verdict.CANNOT_TELL: Health.CANNOT_TELL}


def batch(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield what is to be said of the batch system; one that does not answer is asked nothing more."""
    kind = profile.scheduler.kind
    if kind is SchedulerKind.LOCAL:
        yield ok("batch system", f"{profile.name} has none")
        return
    title = _TITLES[kind]
    commands = _commands(kind)
    missing = [command for command in commands if shutil.which(command) is None]
    if missing:
        fix = f"{_HERE}; if it is there, load the module that brings {missing[0]}, or correct PATH"
        yield wrong("commands", f"{title}: {', '.join(missing)} not on PATH", fix)
        return
    yield ok("commands", f"{title}: {', '.join(commands)} are on PATH")
    try:
        states = _ask(kind)
    except BackendError as exc:
        yield wrong(title, str(exc), "try again in a minute; if it goes on, look at the facility's status page")
        return
    yield ok(title, "answers")
    yield from account(profile, patient)
    if kind is not SchedulerKind.KUBERNETES:
        yield from queues(profile, patient, states)
    if kind is SchedulerKind.SLURM:
        yield from limits(profile, patient)


def _commands(kind: SchedulerKind) -> tuple[str, ...]:
    """Return the commands that submitting and looking at jobs needs, and those that are asked here."""
    if kind is SchedulerKind.KUBERNETES:
        return ("kubectl", "helm")
    asked = ("srun", "sinfo") if kind is SchedulerKind.SLURM else ()
    return tuple(dict.fromkeys((*batch_system(kind).commands, *asked)))


def _ask(kind: SchedulerKind) -> dict[str, str]:
    """Return the queues that the batch system has, each with what keeps jobs from it: empty when nothing does.

    Raises:
        BackendError: It does not answer.
    """
    match kind:
        case SchedulerKind.SLURM:
            # Source: sinfo(1): %R the partition without the mark of the default one, %a up, down, drain or inact.
            lines = answer("sinfo", "--noheader", "--all", "--format=%R|%a").splitlines()
            pairs = (line.strip().split("|", 1) for line in lines if "|" in line)
            return {name: "" if state == "up" else f"is {state}" for name, state in pairs}
        case SchedulerKind.PBS:
            return _pbs_queues(answer("qstat", "-Q", "-f", "-F", "json"))
        case _:
            answer("kubectl", "get", "--raw=/readyz", "--request-timeout=15s")
            return {}


def _pbs_queues(text: str) -> dict[str, str]:
    try:
        found = json.loads(text, strict=False).get("Queue", {})
        return {str(name): _keeps_out(queue) for name, queue in found.items()}
    except (ValueError, AttributeError) as exc:
        raise BackendError("`qstat -Q -f -F json` did not answer in JSON; this PBS may be too old") from exc


def _keeps_out(queue: dict[str, object]) -> str:
    if str(queue.get("enabled")) != "True":
        return "takes no jobs"
    return "" if str(queue.get("started")) == "True" else "starts no jobs"


def account(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield whether the batch system knows the account."""
    name = "account"
    if patient.account is not None:
        known = check_account(profile, patient.account, patient.queue)
        verdict = _VERDICTS[known.verdict]
        yield Finding(name, verdict, known.text, _ACCOUNT_FIXES[known.verdict])
    elif "account" in profile.required:
        yield cannot_tell(name, f"{profile.name} charges each job to an account, and none is named", "name it with -A")


def queues(profile: SiteProfile, patient: Patient, states: dict[str, str]) -> Iterator[Finding]:
    """Yield whether the machine has the queues of the profile, and the one that is wanted.

    Args:
        profile: Of the site.
        patient: Names the queue that is wanted.
        states: The machine's queues, each with what keeps jobs from it.
    """
    natives = {_native(profile, queue.name) for queue in profile.queue_entries} - {None}
    lacking = sorted(native for native in natives if native is not None and native not in states)
    if lacking:
        yield warning(
            "queues",
            f"the profile {profile.name} has {', '.join(lacking)}, which this machine lacks: the profile is old, or of"
            " another machine",
            f"correct it in a profile of your own: rhapsody sites init NAME writes one; here are: {_listed(states)}",
        )
    elif natives:
        yield ok("queues", f"this machine has those of the profile {profile.name}")
    if patient.queue is not None:
        yield _wanted(profile, patient.queue, states)


def _wanted(profile: SiteProfile, queue: str, states: dict[str, str]) -> Finding:
    known = {each.name for each in profile.queue_entries}
    native = _native(profile, queue) if queue in known else queue
    if native is None:
        return ok("queue", f"{queue} is a QOS, not a partition; see its limits")
    if native not in states:
        return wrong("queue", f"this machine has no queue {native}", f"name one of: {_listed(states)}")
    if states[native]:
        return warning("queue", f"{native} {states[native]} now", "name another queue with -q, or wait")
    if queue not in known and profile.queues is not None and not profile.queues.open:
        return wrong(
            "queue",
            f"this machine has {queue}, but the profile {profile.name} does not know it",
            f"name one of: {', '.join(sorted(known))}; or add it in a profile of your own",
        )
    return ok("queue", f"{queue} takes jobs")


def _native(profile: SiteProfile, name: str) -> str | None:
    """Return what the batch system calls a queue of the profile; None where it is a QOS only."""
    queue = profile.queue(name)
    if profile.scheduler.kind is SchedulerKind.SLURM:
        return queue.partition or (None if queue.qos else queue.name)
    return queue.name


def _listed(states: dict[str, str]) -> str:
    names = sorted(states)
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "") or "none"
