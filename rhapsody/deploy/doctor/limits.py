"""Limits of a QOS of Slurm, as the machine itself says them, where the profile does not know any."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rhapsody.deploy.doctor.finding import Finding, answer, cannot_tell, ok, warning, wrong
from rhapsody.session.machine_commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.sites.queues import Queue

_FORMAT = "Name,MaxWall,MaxTRES,MaxTRESPU,MaxJobsPU,MaxSubmitPU"
_BY_HAND = f"ask the facility, or try: sacctmgr -P show qos format={_FORMAT}"


class Qos(NamedTuple):
    """What Slurm says of a QOS; empty fields are no limit.

    Attributes:
        name: Of it.
        walltime: Longest, as Slurm writes it.
        job: Most of a job: `node=8`.
        user: Most of all jobs of a user that run at once.
        running: Jobs of a user that run at once.
        submitted: Jobs of a user in the queue.
    """

    name: str
    walltime: str = ""
    job: str = ""
    user: str = ""
    running: str = ""
    submitted: str = ""

    def words(self) -> str:
        """Return the limits as a sentence."""
        found = [
            self.walltime and f"a job may take {self.walltime}",
            self.job and f"a job may have {_counted(self.job)}",
            self.user and f"a user may have {_counted(self.user)} at once",
            self.running and f"jobs of a user that run at once: {self.running}",
            self.submitted and f"jobs of a user in the queue: {self.submitted}",
        ]
        return ", ".join(each for each in found if each)


def limits(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield whether Slurm has the QOS of the profile, and their limits where the profile does not know all of them."""
    queues = [queue for queue in profile.queue_entries if queue.qos and patient.queue in {None, queue.name}]
    named = sorted({queue.qos for queue in queues if queue.qos})
    vague = sorted({queue.qos for queue in queues if queue.qos and _is_vague(queue)})
    if not named:
        return
    try:
        lines = answer("sacctmgr", "-nP", "show", "qos", f"format={_FORMAT}").splitlines()
    except CommandError as exc:
        if vague:
            text = f"the profile {profile.name} does not know the limits of {', '.join(vague)}, and {exc}"
            yield cannot_tell("limits", text, _BY_HAND)
        return
    known = {qos.name: qos for qos in map(_parsed, lines)}
    if lacking := [name for name in named if name not in known]:
        say = warning if patient.queue is None else wrong
        text = f"the profile {profile.name} names the QOS {', '.join(lacking)}, which this machine lacks"
        yield say("qos", text, f"name another queue with -q; QOS here: {', '.join(sorted(known)) or 'none'}")
    for name in vague:
        if name in known:
            words = known[name].words()
            text = f"by Slurm: {words}" if words else "Slurm has none for this QOS; its partition may have"
            yield ok(f"limits of {name}", text)


def _is_vague(queue: Queue) -> bool:
    return any(each.max_nodes is None or each.max_walltime is None for each in queue.ranges)


def _parsed(line: str) -> Qos:
    return Qos(*(field.strip() for field in line.split("|")[:6]))


def _counted(tres: str) -> str:
    """Return `cpu=128,node=8` as words."""
    pairs = (each.partition("=") for each in tres.split(","))
    return " and ".join(f"{count} {name}" for name, _, count in pairs)
