"""`rhapsody image`: the container image that jobs run in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.cli.target import errors_told

if TYPE_CHECKING:
    from rhapsody.deploy.image.facts import ImageFacts

_EPILOG = """\b
Examples:
  rhapsody image build --sif rhapsody.sif
  rhapsody image test localhost/rhapsody
  rhapsody image test rhapsody.sif
  rhapsody image push localhost/rhapsody registry.example.org/project/rhapsody:1.0

docs/images.md says how images are used on a laptop and on a cluster.
"""
_ENGINE = click.option("--engine", metavar="NAME", help="buildah, podman or docker; one that is there, unless given.")
_FILE = click.Path(dir_okay=False, path_type=Path)
_DEFAULT = "localhost/rhapsody:latest"


@click.group(epilog=_EPILOG)
def image() -> None:
    """Build, test and look at the container image that campaigns run in.

    An IMAGE is a name that podman or docker knows, or a file of Apptainer (.sif).
    """


_BUILD_EPILOG = """\b
Examples:
  rhapsody image build
  rhapsody image build --tag localhost/rhapsody:dev --sif rhapsody.sif
  rhapsody image build --base localhost/rhapsody-base:bookworm -- --network host
  rhapsody image build --variant vllm-cuda --tag localhost/rhapsody-vllm

The same checkout and lock give the same files: they bear the time of the last commit, or of $SOURCE_DATE_EPOCH.
"""


@image.command(epilog=_BUILD_EPILOG)
@click.option("--tag", default=_DEFAULT, show_default=True, help="Name of the image.")
@click.option("--variant", default="runtime", show_default=True, help="runtime, vllm-cpu, vllm-cuda or vllm-rocm.")
@click.option("--base", metavar="IMAGE", help="Build upon this image; it must have Python 3.11 (runtime) or vLLM.")
@click.option(
    "--runtime", metavar="IMAGE", default=_DEFAULT, help="For vllm variants: the image to take RHAPSODY from."
)
@click.option("--sif", type=_FILE, metavar="FILE", help="Write a file for Apptainer, too.")
@click.option("--force", is_flag=True, help="Replace the file of --sif.")
@click.option("--source", type=click.Path(path_type=Path), default=Path(), help="A checkout of RHAPSODY. [.]")
@click.option("--ca", type=_FILE, metavar="FILE", help="Certificates for the build only, as of a proxy.")
@click.option("--pip-config", type=_FILE, metavar="FILE", help="A pip.conf for the build only, as with a mirror.")
@_ENGINE
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS]")
def build(  # noqa: PLR0913, PLR0917 - one for each option
    tag: str,
    variant: str,
    base: str | None,
    runtime: str,
    sif: Path | None,
    force: bool,
    source: Path,
    ca: Path | None,
    pip_config: Path | None,
    engine: str | None,
    options: tuple[str, ...],
) -> None:
    """Build the image from a checkout. What follows -- is handed to the engine's `build` as it is."""
    from rhapsody.deploy.image.build import RUNTIME, Order, make_sif, require_sif  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.deploy.image.build import build as build_image  # noqa: PLC0415
    from rhapsody.deploy.image.facts import MOST_BYTES, look_with  # noqa: PLC0415

    say = _say_on_stderr
    order = Order(source.absolute(), tag, variant, base, runtime, ca, pip_config, options)
    with errors_told():
        if sif:
            require_sif(sif, force=force)
        builder = build_image(order, engine, say)
        facts = look_with(builder, tag)
        _show(facts)
        if variant == RUNTIME and facts.size_bytes > MOST_BYTES:
            click.echo(f"Warning: that is more than {MOST_BYTES // 10**6} MB; is the base image a large one?", err=True)
        if sif:
            make_sif(builder, tag, sif, order.source, say)
            click.echo(f"{sif}: {sif.stat().st_size / 1e6:.0f} MB")
    click.echo(f"try it out: rhapsody image test {sif or tag}")


@image.command(
    epilog="\b\nExamples:\n  rhapsody image test localhost/rhapsody\n  rhapsody image test rhapsody.sif --json"
)
@click.argument("image_name", metavar="IMAGE", default=_DEFAULT)
@click.option("--shm-size", default="2g", show_default=True, help="Shared memory of the container; not for .sif files.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@_ENGINE
def test(image_name: str, shm_size: str, as_json: bool, engine: str | None) -> None:
    """Try IMAGE out: what is in it, a campaign with MPI, a campaign over Dragon.

    The container runs as a user that the image does not know, without rights, and with nothing to write to but /tmp.
    """
    from rhapsody.deploy.image.trial import try_out  # noqa: PLC0415

    with errors_told():
        try_out(image_name, engine, click.echo, shm_size=shm_size, as_json=as_json)


_PUSH_EPILOG = """\b
Examples:
  rhapsody image push localhost/rhapsody registry.example.org/project/rhapsody:1.0
  rhapsody image push rhapsody.sif registry.example.org/project/rhapsody-sif:1.0

Log in first with the engine: podman login registry.example.org
"""


@image.command(epilog=_PUSH_EPILOG)
@click.argument("image_name", metavar="IMAGE")
@click.argument("destination")
@_ENGINE
def push(image_name: str, destination: str, engine: str | None) -> None:
    """Send IMAGE to a registry, as DESTINATION."""
    from rhapsody.deploy.image.ship import push as send  # noqa: PLC0415

    with errors_told():
        send(image_name, destination, engine, _say_on_stderr)
    click.echo(f"{image_name} is at {destination}")


@image.command(epilog="\b\nExample:\n  rhapsody image sbom localhost/rhapsody --out rhapsody.cdx.json")
@click.argument("image_name", metavar="IMAGE", default=_DEFAULT)
@click.option("--out", type=_FILE, required=True, metavar="FILE", help="Where to write it.")
@_ENGINE
def sbom(image_name: str, out: Path, engine: str | None) -> None:
    """List the parts of IMAGE, with versions and licenses, as CycloneDX (JSON). Needs syft."""
    from rhapsody.deploy.image.ship import write_sbom  # noqa: PLC0415

    with errors_told():
        write_sbom(image_name, out, engine, _say_on_stderr)
        parts = json.loads(out.read_text()).get("components", ())
    click.echo(f"{out}: {len(parts)} parts")


@image.command(
    epilog="\b\nExamples:\n  rhapsody image inspect localhost/rhapsody\n  rhapsody image inspect x.sif --json"
)
@click.argument("image_name", metavar="IMAGE", default=_DEFAULT)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@_ENGINE
def inspect(image_name: str, as_json: bool, engine: str | None) -> None:
    """Show what IMAGE is: version, size, architecture, what it was built from."""
    from rhapsody.deploy.image.facts import look  # noqa: PLC0415

    with errors_told():
        facts = look(image_name, engine)
    if as_json:
        click.echo(json.dumps({"schema": 1, **facts.model_dump()}, indent=2))
    else:
        _show(facts)


def _show(facts: ImageFacts) -> None:
    shown = {
        "image": facts.name,
        "size": f"{facts.size_bytes / 1e6:.0f} MB{' uncompressed' if facts.kind == 'oci' else ''}",
        "architecture": facts.architecture,
        "rhapsody": facts.version,
        "commit": facts.revision,
        "base image": facts.base,
        "made": facts.created,
        "image id": facts.image_id,
    }
    for label, text in shown.items():
        if text is not None:
            click.echo(f"{label}: {text}")


def _say_on_stderr(line: str) -> None:
    click.echo(line, err=True)
