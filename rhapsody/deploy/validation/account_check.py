"""Does the batch system know an account as this user's? It is asked; where it does not say, nobody can tell."""

from __future__ import annotations

import os
import pwd
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.deploy.validation.accounts import Verdict
from rhapsody.session.machine_commands import CommandError, ask

if TYPE_CHECKING:
    from rhapsody.deploy.sites.profile import SiteProfile

LIMIT_S = 20.0
"""Seconds that the batch system may take to answer: a submission waits for it."""
_NAMES_SHOWN = 12


class AccountAnswer(NamedTuple):
    """What is known of an account.

    Attributes:
        verdict: Only `WRONG` may refuse a job.
        text: Says so, and lists the accounts where this one is wrong.
    """

    verdict: Verdict
    text: str


class _Association(NamedTuple):
    """One way in which a user may use an account; empty fields mean any.

    Attributes:
        account: Its name.
        partition: The only partition that it is for.
        qos: Those that it may use.
    """

    account: str
    partition: str
    qos: tuple[str, ...]


def check_account(profile: SiteProfile, account: str, queue_name: str | None = None) -> AccountAnswer:
    """Return whether the batch system knows an account as this user's.

    Args:
        profile: Of the site that this machine belongs to.
        account: As the user names it.
        queue_name: The queue that it shall pay for, as the profile or the batch system names it.
    """
    match profile.scheduler.kind:
        case SchedulerKind.SLURM:
            return _in_slurm(profile, account, queue_name)
        case SchedulerKind.PBS:
            command = profile.accounts.balance_command if profile.accounts else None
            way = f"`{command}` may list them" if command else "the facility's own pages list them"
            return AccountAnswer(
                Verdict.CANNOT_TELL, f"PBS does not say which accounts you have; {way}, and qsub refuses a wrong one"
            )
        case _:
            return AccountAnswer(Verdict.OK, f"{profile.name} knows no accounts; {account} is not used")


def user_name() -> str:
    """Return the name of this user as the system knows it, or the environment where the system does not."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container
        return os.environ.get("USER") or str(os.getuid())


def _in_slurm(profile: SiteProfile, account: str, queue_name: str | None) -> AccountAnswer:
    try:
        found = _associations()
    except CommandError as exc:
        return AccountAnswer(Verdict.CANNOT_TELL, f"whether the account {account} is yours cannot be told: {exc}")
    if not found:
        return AccountAnswer(
            Verdict.CANNOT_TELL,
            f"whether the account {account} is yours cannot be told: Slurm lists none of yours",
        )
    own = [each for each in found if each.account.lower() == account.lower()]
    if not own:
        return AccountAnswer(
            Verdict.WRONG,
            f"the account {account} is not among yours on this machine; your accounts: {_listed(found)}",
        )
    if queue_name is not None and (doubt := _doubt(profile, own, queue_name)):
        return AccountAnswer(Verdict.CANNOT_TELL, doubt)
    return AccountAnswer(Verdict.OK, f"Slurm knows {own[0].account} as an account of yours")


def _associations() -> list[_Association]:
    """Return the accounts that Slurm lists.

    Raises:
        CommandError: It does not answer.
    """
    found: list[_Association] = []
    failure: CommandError | None = None
    try:
        # Source: sacctmgr(1) of Slurm 22.05: fields are divided by |, several QOS by commas.
        text = _ask("sacctmgr", "-nP", "show", "assoc", f"user={user_name()}", "format=Account,Partition,QOS")
        found = [_association(line) for line in text.splitlines()]
    except CommandError as exc:
        failure = exc
    if not any(each.account for each in found):
        try:
            found = [_association(line) for line in _ask("sshare", "-nPU", "-o", "Account").splitlines()]
        except CommandError as exc:
            raise failure or exc from None
    return [each for each in found if each.account]


def _ask(*command: str) -> str:
    return ask(command, limit_s=LIMIT_S)


def _association(line: str) -> _Association:
    account, partition, qos, *_ = [*(field.strip() for field in line.split("|")), "", ""]
    return _Association(account, partition, tuple(each for each in qos.split(",") if each))


def _doubt(profile: SiteProfile, own: list[_Association], queue_name: str) -> str | None:
    """Return what speaks against using an account for a queue; None where nothing does."""
    queue = next((queue for queue in profile.queue_entries if queue.name == queue_name), None)
    partition = queue.partition if queue else queue_name
    qos = queue.qos if queue else None
    account = own[0].account
    partitions = sorted({each.partition for each in own})
    if partition and all(partitions) and partition not in partitions:
        return f"Slurm lists {account} for the partitions {', '.join(partitions)} only, not for {partition}"
    allowed = sorted({name for each in own for name in each.qos})
    if qos and all(each.qos for each in own) and qos not in allowed:
        return f"Slurm lists {account} for the QOS {', '.join(allowed)} only, not for {qos}"
    return None


def _listed(found: list[_Association]) -> str:
    names = sorted({each.account for each in found})
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
