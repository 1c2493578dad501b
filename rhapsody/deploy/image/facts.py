"""What an image is: for which architecture, how large, of which version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from rhapsody.deploy.image.engine import Use, ask, find_apptainer, find_engine, own_architecture, require_reference
from rhapsody.deploy.image.named import image_for
from rhapsody.deploy.image.sif import HEAD_BYTES, architecture_of, is_sif
from rhapsody.errors import BackendError, SpecError
from rhapsody.model.allocation import FrozenModel

if TYPE_CHECKING:
    from rhapsody.deploy.image.engine import Engine

MOST_BYTES = 700 * 10**6
"""The plain image stays below this, uncompressed."""

_LABELS = "org.opencontainers.image."


class ImageFacts(FrozenModel):
    """What is known of an image.

    Attributes:
        name: As it was named; a file's absolute path.
        kind: `oci`, or `sif` for a file of Apptainer.
        architecture: As images call it, such as `amd64`; None when unknown.
        size_bytes: Uncompressed; of a file, its size.
        image_id: As the engine names it: a hash of its contents; None for a file.
        created: When it says it was made.
        version: Of RHAPSODY in it.
        revision: Commit of which it was built.
        base: Image that it was built upon.
        user: That its commands run as unless told otherwise; None for root.
        layers: How many; None for a file.
    """

    name: str
    kind: str
    architecture: str | None
    size_bytes: int
    image_id: str | None = None
    created: str | None = None
    version: str | None = None
    revision: str | None = None
    base: str | None = None
    user: str | None = None
    layers: int | None = None


def is_file(image: str) -> bool:
    """Return whether an image, as `image_for` gives it, is a file."""
    return image.startswith("/")


def look(image: str, wanted: str | None = None) -> ImageFacts:
    """Return what an image is.

    Args:
        image: Name, or path of a file of Apptainer.
        wanted: Name of the engine that has it; None takes one that is there. Files need none.

    Raises:
        SpecError: It is not there, or no image, or there is no engine.
        BackendError: The engine does not answer.
    """
    name = image_for(image)
    if is_file(name):
        return _look_at_file(Path(name))
    return look_with(find_engine(Use.LOOK, wanted), name)


def look_with(engine: Engine, image: str) -> ImageFacts:
    """Return what an image is that an engine has; see `look`."""
    require_reference(image)
    if engine.name == "buildah":
        return _from_buildah(engine, image)
    found = _only(ask([engine.path, "image", "inspect", image]), engine)
    config = found.get("Config") or {}
    return ImageFacts(
        name=image,
        kind="oci",
        architecture=found.get("Architecture"),
        size_bytes=found.get("Size") or 0,
        image_id=str(found.get("Id", "")).removeprefix("sha256:") or None,
        created=found.get("Created"),
        user=config.get("User") or None,
        layers=len((found.get("RootFS") or {}).get("Layers") or ()),
        **_labelled(config.get("Labels") or {}),
    )


def _from_buildah(engine: Engine, image: str) -> ImageFacts:
    found = _only(ask([engine.path, "inspect", "--type", "image", image]), engine)
    config = found.get("OCIv1") or {}
    own = config.get("config") or {}
    listed = json.loads(ask([engine.path, "images", "--json", image]) or "[]")
    return ImageFacts(
        name=image,
        kind="oci",
        architecture=config.get("architecture"),
        size_bytes=_bytes(str(listed[0].get("size", "0 B"))) if listed else 0,
        image_id=found.get("FromImageID") or None,
        created=config.get("created"),
        user=own.get("User") or None,
        layers=len((config.get("rootfs") or {}).get("diff_ids") or ()),
        **_labelled(own.get("Labels") or {}),
    )


def _bytes(text: str) -> int:
    """Return the size that buildah writes as `369 MB`."""
    number, _, unit = text.partition(" ")
    return int(float(number) * {"B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9}.get(unit, 1))


def _only(text: str, engine: Engine) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise BackendError(f"{engine.path} does not answer in JSON: {text[:100]!r}") from exc
    return dict(found[0] if isinstance(found, list) and found else found)


class _Labelled(TypedDict):
    version: str | None
    revision: str | None
    base: str | None


def _labelled(labels: dict[str, str]) -> _Labelled:
    """Return the facts that labels tell; `unknown` and nothing are the same."""

    def fact(label: str) -> str | None:
        text = labels.get(_LABELS + label)
        return None if text in {"", "unknown"} else text

    return {"version": fact("version"), "revision": fact("revision"), "base": fact("base.name")}


def _look_at_file(path: Path) -> ImageFacts:
    architecture = sif_architecture(path)
    said = json.loads(ask([find_apptainer().path, "inspect", "--json", str(path)]))
    labels = ((said.get("data") or {}).get("attributes") or {}).get("labels") or {}
    return ImageFacts(
        name=str(path),
        kind="sif",
        architecture=architecture,
        size_bytes=path.stat().st_size,
        created=labels.get("org.label-schema.build-date"),
        **_labelled(labels),
    )


def sif_architecture(path: Path) -> str | None:
    """Return for which architecture a file of Apptainer was made; None when it does not say.

    Raises:
        SpecError: It is no such file.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as exc:
        raise SpecError(f"the image {path} cannot be read: {exc.strerror}") from exc
    if not is_sif(head):
        raise SpecError(
            f"{path} is no image of Apptainer; make one: rhapsody image build --sif {path.with_suffix('.sif').name}"
        )
    made_for = architecture_of(head)
    return made_for.image if made_for else None


def architecture_doubt(image: str) -> str | None:
    """Return what is to be said of an image file of another architecture: this may be a login node unlike the others.

    Args:
        image: As `image_for` gives it.

    Raises:
        SpecError: It ends in .sif and is no image of Apptainer.
    """
    if not image.endswith(".sif"):
        return None
    found, here = sif_architecture(Path(image)), own_architecture()
    if found in {None, here}:
        return None
    return f"the image {image} is for {found}, and this machine is {here}; it runs only where the nodes are {found}"


def require_own_architecture(facts: ImageFacts) -> None:
    """Make sure that an image runs on this machine.

    Raises:
        SpecError: It is of another architecture.
    """
    here = own_architecture()
    if facts.architecture not in {None, here}:
        raise SpecError(
            f"the image {facts.name} is for {facts.architecture}, and this machine is {here}; build it on a machine of"
            f" this architecture, or give an image for {here}"
        )
