"""Does an account pay for what it is used for? Three answers: it does, it does not, nobody can tell from here."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from rhapsody.errors import unknown_name

if TYPE_CHECKING:
    from rhapsody.deploy.sites.nodes import NodeKind
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.sites.queues import Queue
    from rhapsody.deploy.validation.request import Request


class Verdict(StrEnum):
    """What is known of an account. Only `WRONG` may refuse a job."""

    OK = "ok"
    WRONG = "wrong"
    CANNOT_TELL = "cannot tell"


def kind_of_account(profile: SiteProfile, request: Request) -> str | None:
    """Return what an account pays for: what the user says, else what its name says; None when neither does.

    Raises:
        SpecError: The user names a kind that the site does not have.
    """
    if profile.accounts is None:
        return None
    if request.account_kind is not None:
        if request.account_kind not in profile.accounts.kinds:
            raise unknown_name(f"kind of account of {profile.name}", request.account_kind, profile.accounts.kinds)
        return request.account_kind
    account = request.account or ""
    fits = [kind for kind, suffix in profile.accounts.suffixes.items() if account.endswith(suffix)]
    return fits[0] if fits else None


def expected_kinds(queue: Queue | None, kind: NodeKind | None) -> tuple[str, ...]:
    """Return the kinds of accounts that may pay; empty means any."""
    return (queue.account_kinds if queue else ()) or (kind.account_kinds if kind else ())


def verdict_of(profile: SiteProfile, request: Request, expected: tuple[str, ...]) -> Verdict:
    """Return whether a request's account is of an expected kind.

    Raises:
        SpecError: The user names a kind that the site does not have.
    """
    actual = kind_of_account(profile, request)
    if not expected or actual in expected:
        return Verdict.OK
    return Verdict.CANNOT_TELL if actual is None else Verdict.WRONG


def account_warning(profile: SiteProfile, request: Request, expected: tuple[str, ...]) -> str | None:
    """Return what to tell of an account that is not known to be of an expected kind; None where all is well."""
    if profile.accounts is None or request.account is None:
        return None
    verdict = verdict_of(profile, request, expected)
    if verdict is Verdict.OK:
        return None
    wanted = " or ".join(expected)
    if verdict is Verdict.WRONG:
        actual = kind_of_account(profile, request)
        return f"the account {request.account} looks like one for {actual}, but these nodes want one for {wanted}"
    endings = [profile.accounts.suffixes[kind] for kind in expected if kind in profile.accounts.suffixes]
    usual = f"; such accounts end in {' or '.join(endings)}" if endings else ""
    return f"whether the account {request.account} pays for {wanted} cannot be told from its name{usual}"
