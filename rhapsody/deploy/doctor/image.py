"""The container image and the engine that runs it."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.doctor.finding import BATCH, Finding, answer, cannot_tell, ok, rounded, warning, wrong
from rhapsody.deploy.doctor.mounts import Reach, place_of
from rhapsody.deploy.image.sif import HEAD_BYTES, architecture_of, is_sif
from rhapsody.deploy.sites.container import EngineName
from rhapsody.session.machine_commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.container import Engine
    from rhapsody.deploy.sites.profile import SiteProfile

_SQUASHFS = b"hsqs"
_BUILD = "build one: apptainer build image.sif docker://NAME"


def container(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield what is to be said of the site's container engines and of the image, if one is wanted."""
    engines = profile.container.engines if profile.container else ()
    if engines:
        yield engine(engines[0], patient)
    elif patient.image is not None:
        yield _some_engine()
    if patient.image is None:
        return
    takes_files = not engines or engines[0].name is EngineName.APPTAINER
    if not takes_files or not _is_path(patient.image):
        yield cannot_tell(
            "image",
            f"{patient.image} is the name of an image, not a file; whether it is there cannot be told from here",
            _prepared(engines, patient.image),
        )
        return
    yield from image(profile, patient, Path(patient.image).expanduser())


def engine(wanted: Engine, patient: Patient) -> Finding:
    """Return whether a container engine of the site can be used."""
    name, command = "container engine", str(wanted.name)
    if wanted.compute_nodes_only and not patient.in_job:
        return cannot_tell(name, f"{command} is on compute nodes only", "run rhapsody doctor in a job to try it")
    if shutil.which(command) is None:
        missing = f"{command} is not on PATH"
        if wanted.modules:
            modules = " ".join(wanted.modules)
            return cannot_tell(name, f"{missing}; jobs load {modules}", f"to try it here: module load {modules}")
        return wrong(name, missing, f"run this where you submit jobs, or ask the facility how to get {command}")
    return _version(name, command)


def _some_engine() -> Finding:
    found = [str(each) for each in EngineName if shutil.which(each)]
    if found:
        return _version("container engine", found[0])
    return wrong(
        "container engine",
        f"an image is wanted, the profile knows no engine, and none of {', '.join(EngineName)} is on PATH",
        "run this where you submit jobs, or ask the facility which engine it has; a profile of your own may name it",
    )


def _version(name: str, command: str) -> Finding:
    try:
        said = answer(command, "--version").strip().partition("\n")[0]
    except CommandError as exc:
        return wrong(name, str(exc), f"try `{command} --version` by hand, and ask the facility")
    return ok(name, said or command)


def _is_path(image: str) -> bool:
    """Return whether an image is named as a file rather than by a name of a registry."""
    if "://" in image:
        return False
    return image.startswith(("/", ".", "~")) or image.endswith((".sif", ".simg", ".img")) or Path(image).exists()


def _prepared(engines: tuple[Engine, ...], image: str) -> str:
    commands = [command.replace("{image}", image) for each in engines[:1] for command in each.prepare]
    return f"once before the first job: {'; '.join(commands)}" if commands else "pull it once by hand, and see"


def image(profile: SiteProfile, patient: Patient, path: Path) -> Iterator[Finding]:
    """Yield what is to be said of an image's file: whether it is one, of this architecture, and seen by jobs."""
    name = "image"
    if path.is_dir():
        yield ok(name, f"{path} is a folder: an image that is unpacked")
    else:
        try:
            with path.open("rb") as file:
                head, size = file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            yield wrong(name, f"{path} is not there", f"correct --image, or {_BUILD}")
            return
        except OSError as exc:
            yield wrong(name, f"{path} cannot be read: {exc.strerror}", f"chmod u+r {path}, or ask its owner")
            return
        yield _kind(path, head, size, surely=patient.is_where_jobs_run(profile))
    place = place_of(path, profile, patient)
    if profile.scheduler.kind in BATCH and place.reach is Reach.THIS_NODE:
        fix = "move it to a file system that all nodes see"
        yield wrong("image's place", f"{path} is on {place.words}: jobs do not find it", fix)


def _kind(path: Path, head: bytes, size: int, *, surely: bool) -> Finding:
    """Return whether a file is an image that runs here.

    Args:
        path: Of the file.
        head: What it begins with.
        size: Of it.
        surely: Whether jobs run on machines like this one.
    """
    name, shown = "image", f"{path}, {rounded(size)}"
    if head.startswith(_SQUASHFS):
        return cannot_tell(name, f"{shown}: an old image, which does not say for which machines it is", _BUILD)
    if not is_sif(head):
        return wrong(name, f"{shown}: no image of Apptainer", f"correct --image, or {_BUILD}")
    architecture, here = architecture_of(head), platform.machine()
    if architecture is None:
        return cannot_tell(name, f"{shown}: it does not say for which machines it is", f"apptainer inspect {path}")
    made_for = architecture.machine
    if made_for != here:
        text, fix = f"{shown}: made for {made_for}, and this is {here}", f"build it on a machine with {here}"
        return wrong(name, text, fix) if surely else warning(name, text, f"{fix}, unless compute nodes are {made_for}")
    return ok(name, f"{shown}, for {made_for}")
