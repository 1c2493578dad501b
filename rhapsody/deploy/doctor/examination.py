"""Is this machine fit for what a user wants to do at a site? It is looked at, nothing is changed or submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.deploy.doctor.batch import batch
from rhapsody.deploy.doctor.files import files
from rhapsody.deploy.doctor.finding import Finding, Health, Patient, cannot_tell
from rhapsody.deploy.doctor.image import container
from rhapsody.deploy.doctor.installation import installation
from rhapsody.deploy.doctor.node import node
from rhapsody.errors import RhapsodyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rhapsody.deploy.sites.profile import SiteProfile

__all__ = ["Finding", "Health", "Patient", "examine"]

_CHECKS: tuple[tuple[str, Callable[[SiteProfile, Patient], Iterator[Finding]]], ...] = (
    ("host", node),
    ("batch system", batch),
    ("run folder", files),
    ("installation", installation),
    ("container", container),
)


def examine(profile: SiteProfile, patient: Patient) -> list[Finding]:
    """Return what was found, in the order in which it was looked at; a check that cannot be made says so.

    Args:
        profile: Of the site.
        patient: This machine, and what the user wants to do.
    """
    found: list[Finding] = []
    for subject, check in _CHECKS:
        try:
            found.extend(check(profile, patient))
        except (RhapsodyError, OSError) as exc:
            found.append(cannot_tell(subject, f"could not be looked at: {exc}", "try again; if it goes on, report it"))
    return found
