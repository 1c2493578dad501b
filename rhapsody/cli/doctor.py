"""`rhapsody doctor`: is this machine fit for what you want to do?"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.cli.faults import OTHER_ERROR
from rhapsody.cli.target import errors_told, runs_folder, runs_option

if TYPE_CHECKING:
    from rhapsody.deploy.sites.profile import SiteProfile

_EPILOG = """\b
Examples:
  rhapsody doctor
  rhapsody doctor --site frontier -A abc123 -q batch
  rhapsody doctor --site slurm --image ~/rhapsody.sif --json

\b
Exit codes: 0 nothing is wrong; 1 something is; 2 the input is wrong.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--site",
    metavar="NAME",
    help="The machine, or a profile's file that ends in .yaml; found by this host's name, else `local`, unless given.",
)
@click.option("-A", "--account", metavar="NAME", help="Whom jobs are charged to.")
@click.option("-q", "--queue", metavar="NAME", help="The queue that jobs shall go to.")
@click.option("--image", metavar="FILE", help="The container image that jobs shall use.")
@runs_option
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_context
def doctor(  # noqa: PLR0913, PLR0917 - one parameter per option, which click passes by keyword
    context: click.Context,
    site: str | None,
    account: str | None,
    queue: str | None,
    image: str | None,
    runs: Path | None,
    as_json: bool,
) -> None:
    """Look whether this machine is fit for runs: batch system, account, queues, files, image, network.

    Run it where you submit jobs, and inside a job for what only its nodes have. It changes nothing and submits nothing.
    """
    from rhapsody.cli.doctor_view import as_dict, render  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.deploy.doctor.examination import Health, Patient, examine  # noqa: PLC0415

    with errors_told():
        patient = Patient(runs_folder(runs), account=account, queue=queue, image=image)
        profile = _profile(site, patient.host)
        findings = examine(profile, patient)
    if as_json:
        click.echo(json.dumps(as_dict(profile, patient.host, findings)))
    else:
        click.echo(render(profile, patient.host, findings, shutil.get_terminal_size().columns))
    context.exit(OTHER_ERROR if any(finding.verdict is Health.WRONG for finding in findings) else 0)


def _profile(site: str | None, host: str) -> SiteProfile:
    """Return the profile that is named, the one that knows this host, or the one for any machine."""
    from rhapsody.deploy.login_node import known_login_node  # noqa: PLC0415
    from rhapsody.deploy.sites.loading import load_site, load_site_file  # noqa: PLC0415

    if site is None:
        return known_login_node(host) or load_site("local")
    return load_site_file(Path(site)) if site.endswith(".yaml") else load_site(site)
