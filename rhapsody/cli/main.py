"""The command's root: what `rhapsody` alone says, and its subcommands."""

from __future__ import annotations

import click

from rhapsody.cli.bench import bench
from rhapsody.cli.run import run


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
main.add_command(bench)
