"""Building the image from a checkout, and a file for Apptainer from the image."""

from __future__ import annotations

import os
import subprocess
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.image.engine import Engine, Use, carry_out, find_apptainer, find_engine, require_reference
from rhapsody.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_TAG = "localhost/rhapsody:latest"
RUNTIME = "runtime"
_VLLM = "Containerfile.vllm"
VARIANTS = {RUNTIME: "Containerfile", "vllm-cpu": _VLLM, "vllm-cuda": _VLLM, "vllm-rocm": _VLLM}
"""Which file of `containers/` makes which variant."""
# Names as vLLM's documentation gives them, checked 2026-11. Not tried: they are some 10 GB each.
BASES = {
    "vllm-cpu": "docker.io/vllm/vllm-openai-cpu:latest",
    "vllm-cuda": "docker.io/vllm/vllm-openai:latest",
    "vllm-rocm": "docker.io/vllm/vllm-openai-rocm:latest",
}
_NEEDED = ("pyproject.toml", "containers/Containerfile", "locks/image.txt", "locks/image-build.txt", "rhapsody")
_GIT_LIMIT_S = 10
_QUICKLY = "-comp gzip -Xcompression-level 1"
"""All installations can read it. 19 s in place of 45 for a file of 131 MB in place of 117."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to build.

    Attributes:
        source: A checkout of RHAPSODY.
        tag: Name of the image.
        variant: One of `VARIANTS`.
        base: Image to build upon; None takes the variant's own.
        runtime: Image with RHAPSODY in it, which variants for model servers take it from.
        ca: Certificates for the build, PEM; not kept in the image.
        pip_config: A `pip.conf` for the build; not kept in the image.
        options: Handed to the engine as they are.
    """

    source: Path
    tag: str = DEFAULT_TAG
    variant: str = RUNTIME
    base: str | None = None
    runtime: str = DEFAULT_TAG
    ca: Path | None = None
    pip_config: Path | None = None
    options: tuple[str, ...] = ()


def build(order: Order, wanted: str | None, say: Callable[[str], None]) -> Engine:
    """Build an image.

    Args:
        order: What.
        wanted: Name of the engine; None takes one that is there.
        say: Called with each line that the engine prints.

    Returns:
        The engine that has the image.

    Raises:
        SpecError: The order cannot be carried out: no checkout, no engine, a base image that does not do.
        BackendError: It failed in a way that may pass.
    """
    require_order(order)
    engine = find_engine(Use.BUILD, wanted)
    epoch = source_date_epoch(order.source)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
    if engine.name == "docker":
        environment["DOCKER_BUILDKIT"] = "1"
    carry_out(build_command(engine, order, epoch), say, **environment)
    return engine


def require_order(order: Order) -> None:
    """Make sure that an order makes sense.

    Raises:
        SpecError: It does not.
    """
    if order.variant not in VARIANTS:
        raise unknown_name("variant of the image", order.variant, VARIANTS)
    for name in filter(None, (order.tag, order.base, order.runtime)):
        require_reference(name)
    missing = [name for name in _NEEDED if not (order.source / name).exists()]
    if missing:
        raise SpecError(
            f"{order.source} is no checkout of RHAPSODY: {', '.join(missing)} not there; an image is built from the"
            " source: run this in a checkout, or name it by --source"
        )
    for file in filter(None, (order.ca, order.pip_config)):
        if not file.is_file():
            raise SpecError(f"{file} is not there, or no file; --ca and --pip-config each name one")


def build_command(engine: Engine, order: Order, epoch: str) -> list[str]:
    """Return the command line that builds an image.

    Args:
        engine: That will build.
        order: What.
        epoch: Time that files of the image shall bear, in seconds.
    """
    folder = order.source / "containers"
    ignored = folder / "Containerfile.dockerignore"
    commit = _git(order.source, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
    arguments = {"VERSION": version_of(order.source), "REVISION": commit or "unknown"}
    if base := order.base or BASES.get(order.variant):
        arguments["BASE"] = base
    if order.variant != RUNTIME:
        arguments["RUNTIME"] = order.runtime
    secrets = {"ca": order.ca, "pip": order.pip_config}
    reproducible = ["--timestamp", epoch, "--ignorefile", str(ignored)]
    if engine.name == "docker":  # finds the ignore file by its name
        reproducible = ["--build-arg", f"SOURCE_DATE_EPOCH={epoch}"]
    return [
        *(engine.path, "build", *reproducible),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        *(word for name, file in secrets.items() if file for word in ("--secret", f"id={name},src={file.absolute()}")),
        *("--file", str(folder / VARIANTS[order.variant]), "--tag", order.tag),
        *order.options,
        str(order.source),
    ]


def require_sif(sif: Path, *, force: bool) -> None:
    """Make sure that a file for Apptainer can be made; before an image is built for it.

    Raises:
        SpecError: There is no Apptainer, or the file is there already and `force` is not given.
    """
    if sif.exists() and not force:
        raise SpecError(f"{sif} is there already; give --force to replace it, or another name")
    if not sif.absolute().parent.is_dir():
        raise SpecError(f"{sif.absolute().parent} is no folder; make it, or give another name")
    find_apptainer()


def make_sif(engine: Engine, tag: str, sif: Path, source: Path, say: Callable[[str], None]) -> None:
    """Make a file for Apptainer from an image that an engine has; one that is there is replaced.

    Raises:
        RhapsodyError: There is no Apptainer, or it failed.
    """
    apptainer = find_apptainer()
    with tempfile.TemporaryDirectory(prefix="rhapsody-image-") as folder:
        archive = Path(folder, "image.tar")
        carry_out(save_command(engine, tag, archive), say)
        command = [apptainer.path, "build", "--force", "--notest"]
        if Path(apptainer.path).name == "apptainer":  # Singularity has no such option
            command += ["--mksquashfs-args", _QUICKLY]
        arguments = {"archive": str(archive), "version": version_of(source)}
        command += [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        carry_out([*command, str(sif), str(source / "containers" / "rhapsody.def")], say)


def save_command(engine: Engine, image: str, archive: Path) -> list[str]:
    """Return the command line that writes an image into a file that Docker, too, can read."""
    match engine.name:
        case "buildah":
            return [engine.path, "push", image, f"docker-archive:{archive}:{image}"]
        case "podman":
            return [engine.path, "save", "--quiet", "--format", "docker-archive", "--output", str(archive), image]
        case _:
            return [engine.path, "save", "--output", str(archive), image]


def version_of(source: Path) -> str:
    """Return the version that a checkout has.

    Raises:
        SpecError: Its `pyproject.toml` does not say.
    """
    file = source / "pyproject.toml"
    try:
        return str(tomllib.loads(file.read_text())["project"]["version"])
    except (OSError, tomllib.TOMLDecodeError, KeyError) as exc:
        raise SpecError(f"{file} does not say which version this is ({exc}); is it a checkout of RHAPSODY?") from exc


def source_date_epoch(source: Path) -> str:
    """Return the time that files of the image shall bear: `$SOURCE_DATE_EPOCH`, else that of the last commit, else 0.

    Raises:
        SpecError: The variable holds something else than seconds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given and not given.isdecimal():
        raise SpecError(f"SOURCE_DATE_EPOCH={given} is no number of seconds; unset it, or give one")
    return given or _git(source, "log", "-1", "--format=%ct") or "0"


def _git(source: Path, *arguments: str) -> str:
    """Return what git says of a checkout; nothing where there is no git or no repository."""
    try:
        done = subprocess.run(  # noqa: S603 - git, as PATH names it
            ["git", "-C", str(source), *arguments],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=_GIT_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
