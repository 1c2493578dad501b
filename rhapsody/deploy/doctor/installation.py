"""This installation: where Python and RHAPSODY lie, and whether Dragon is there."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import rhapsody
from rhapsody.backends.dragon.surroundings import is_installed
from rhapsody.deploy.doctor.finding import BATCH, Finding, cannot_tell, ok, warning, wrong
from rhapsody.deploy.doctor.mounts import Reach, place_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile

_ELSEWHERE = "install it in a folder that all nodes see, or use an image (--image)"


def installation(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield what is to be said of the software that jobs use; with an image they use the image's."""
    yield _place("python", Path(sys.prefix), profile, patient)
    yield _place("rhapsody", Path(rhapsody.__file__).parent, profile, patient)
    yield _dragon(profile, patient)


def _place(name: str, folder: Path, profile: SiteProfile, patient: Patient) -> Finding:
    place = place_of(folder, profile, patient)
    version = ".".join(map(str, sys.version_info[:3])) if name == "python" else metadata.version("rhapsody-hpc")
    text = f"{version} in {folder}, on {place.words}"
    if profile.scheduler.kind not in BATCH or patient.image is not None or place.reach is Reach.ALL_NODES:
        return ok(name, text)
    match place.reach:
        case Reach.THIS_NODE:
            return wrong(name, f"{text}: jobs run on other nodes and do not find it", _ELSEWHERE)
        case Reach.LIKELY_THIS_NODE:
            return warning(name, f"{text}, which other nodes see only if it is exported to them", _ELSEWHERE)
        case _:
            return cannot_tell(name, f"{text}; whether other nodes see it is not known", _ELSEWHERE)


def _dragon(profile: SiteProfile, patient: Patient) -> Finding:
    name = "dragon"
    if is_installed():
        return ok(name, f"dragonhpc {_version('dragonhpc')} is installed")
    if profile.scheduler.kind not in BATCH:
        return ok(name, "dragonhpc is not installed; the built-in runtime does without")
    if patient.image is not None:
        return cannot_tell(
            name, "dragonhpc is not installed here; whether the image has it is not known", "look inside"
        )
    return warning(
        name,
        "dragonhpc is not installed here; without it a run on several nodes has the built-in runtime only",
        "pip install 'rhapsody-hpc[dragon]', or use an image that has it",
    )


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "of an unknown version"
