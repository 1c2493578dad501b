"""`rhapsody sites`: the machines that are known, and what is known of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import INPUT_ERROR
from rhapsody.cli.target import errors_told
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from rhapsody.deploy.sites.profile import SiteProfile

_EPILOG = """\b
Examples:
  rhapsody sites list
  rhapsody sites show frontier
  rhapsody sites init mycluster
  rhapsody sites validate ~/.config/rhapsody/sites/mycluster.yaml
  rhapsody sites schema > site.schema.json

\b
Profiles of your own are found in the folders of $RHAPSODY_SITE_PATH and
in ~/.config/rhapsody/sites; docs/sites/README.md says how to write one.
"""


@click.group(epilog=_EPILOG)
def sites() -> None:
    """Show what is known of machines: queues, nodes, containers, network, and who says so."""


@sites.command("list", epilog="\b\nExamples:\n  rhapsody sites list\n  rhapsody sites list --json")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_context
def list_command(context: click.Context, as_json: bool) -> None:
    """List the sites that have a profile. Of two with the same name, the one that is found first counts."""
    from rhapsody.cli.sites_view import columns  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.deploy.sites.loading import find_sites, load_site  # noqa: PLC0415

    rows, faults = [], []
    with errors_told():
        files = find_sites()
    for file in files:
        try:
            profile = load_site(file.name)
        except SpecError as exc:
            faults.append(str(exc))
            continue
        where = "shipped" if file.shipped else str(file.path)
        rows.append((file.name, str(profile.scheduler.kind), profile.title, where))
    if as_json:
        keys = ("name", "scheduler", "title", "where")
        click.echo(json.dumps({"schema": 1, "sites": [dict(zip(keys, row, strict=True)) for row in rows]}))
    elif rows:
        click.echo(columns(("site", "scheduler", "what", "where"), rows))
    for text in faults:
        click.echo(f"Error: {text}", err=True)
    context.exit(INPUT_ERROR if faults else 0)


_SHOW_EPILOG = """\b
Examples:
  rhapsody sites show frontier
  rhapsody sites show anvil --json | jq '.queues.entries[].name'
"""


def _complete(_context: click.Context, _argument: click.Parameter, begun: str) -> list[str]:
    """Return the names of sites that begin so, for the shell."""
    from rhapsody.deploy.sites.loading import find_sites  # noqa: PLC0415

    return [file.name for file in find_sites() if file.name.startswith(begun)]


@sites.command(epilog=_SHOW_EPILOG)
@click.argument("name", shell_complete=_complete)
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.option("--markdown", is_flag=True, help="Print the page of the documentation.")
def show(name: str, as_json: bool, markdown: bool) -> None:
    """Show the profile of the site NAME, or of a file that ends in .yaml.

    Each section ends with who says so, and how sure that is: H, the facility itself; M, a maintained configuration of
    others; L, one user; U, nobody.
    """
    from rhapsody.cli.sites_view import show as render  # noqa: PLC0415
    from rhapsody.deploy.sites.page import render_page  # noqa: PLC0415

    if as_json and markdown:
        raise click.UsageError("--json and --markdown exclude each other; give one")
    profile = _load(name)
    if as_json:
        click.echo(profile.model_dump_json(by_alias=True, exclude_none=True, indent=2))
    elif markdown:
        click.echo(render_page(profile), nl=False)
    else:
        click.echo(render(profile, shutil.get_terminal_size().columns))


@sites.command(
    epilog="\b\nExample:\n  rhapsody sites validate mycluster.yaml\n\nExit codes: 0 it is valid; 2 it is not"
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
def validate(file: Path, as_json: bool) -> None:
    """Check a profile: FILE with those that it extends. Each fault is told with its line and what to do."""
    from rhapsody.deploy.sites.loading import load_site_file  # noqa: PLC0415
    from rhapsody.deploy.validation.rules import profile_warnings  # noqa: PLC0415

    with errors_told():
        profile = load_site_file(file)
    warnings = profile_warnings(profile)
    if as_json:
        click.echo(json.dumps({"schema": 1, "name": profile.name, "valid": True, "warnings": warnings}))
        return
    counts = f"queues: {len(profile.queue_entries)}, kinds of nodes: {len(profile.kinds)}"
    click.echo(f"{file} is valid: {profile.title}; {counts}")
    for text in warnings:
        click.echo(f"Warning: {text}", err=True)


@sites.command(epilog="\b\nExample:\n  rhapsody sites schema > site.schema.json")
def schema() -> None:
    """Print the JSON schema of a profile, for editors and other programs."""
    from rhapsody.deploy.sites.loading import json_schema  # noqa: PLC0415

    click.echo(json.dumps(json_schema(), indent=2))


_INIT_EPILOG = """\b
Examples:
  rhapsody sites init mycluster
  rhapsody sites init mycluster --out - | less
"""


@sites.command(epilog=_INIT_EPILOG)
@click.argument("name")
@click.option("--out", metavar="FILE", help="Where to write it; - prints it. [~/.config/rhapsody/sites/NAME.yaml]")
@click.option(
    "--scheduler",
    type=click.Choice(["slurm", "pbs", "local"]),
    help="Whom to ask; the one found on PATH, unless given.",
)
def init(name: str, out: str | None, scheduler: str | None) -> None:
    """Write a first profile NAME of this machine, from what its batch system says.

    Run it where you submit jobs. It asks scontrol, or qstat and pbsnodes, or lscpu, each once. Check what it wrote.
    """
    from rhapsody.deploy.sites.loading import require_name, write_draft  # noqa: PLC0415
    from rhapsody.deploy.sites.probe import detect, draft  # noqa: PLC0415
    from rhapsody.deploy.sites.profile import SchedulerKind  # noqa: PLC0415

    with errors_told():
        require_name(name)
        text = draft(name, SchedulerKind(scheduler) if scheduler else detect())
        if out == "-":
            click.echo(text, nl=False)
            return
        file = write_draft(text, name, Path(out) if out else None)
    click.echo(f"wrote {file}; check it, then: rhapsody sites validate {file}")


def _load(name: str) -> SiteProfile:
    from rhapsody.deploy.sites.loading import load_site, load_site_file  # noqa: PLC0415

    with errors_told():
        return load_site_file(Path(name)) if name.endswith(".yaml") else load_site(name)
