"""The command's root: what `rhapsody` alone says, and its subcommands."""

from __future__ import annotations

import click

from rhapsody.cli.attach import attach
from rhapsody.cli.bench import bench
from rhapsody.cli.cancel import cancel
from rhapsody.cli.connect import connect
from rhapsody.cli.deploy import deploy
from rhapsody.cli.doctor import doctor
from rhapsody.cli.gateway import gateway
from rhapsody.cli.image import image
from rhapsody.cli.list_runs import list_command
from rhapsody.cli.logs import logs
from rhapsody.cli.report import report
from rhapsody.cli.run import run
from rhapsody.cli.sites import sites
from rhapsody.cli.status import status


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExample:\n  rhapsody run campaign.py --cores 8",
)
@click.version_option(package_name="rhapsody-hpc", prog_name="rhapsody", message="%(prog)s %(version)s")
def main() -> None:
    """Run hybrid AI-HPC campaigns: functions, executables and MPI side by side.

    A campaign is a Python file with `async def campaign(session, args)`.
    """


main.add_command(run)
main.add_command(deploy)
main.add_command(status)
main.add_command(list_command)
main.add_command(logs)
main.add_command(attach)
main.add_command(report)
main.add_command(cancel)
main.add_command(doctor)
main.add_command(connect)
main.add_command(gateway)
main.add_command(bench)
main.add_command(sites)
main.add_command(image)
