"""The command `rhapsody-node`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.errors import RhapsodyError, SpecError
from rhapsody.node.identity import find_job, find_place, own_names
from rhapsody.node.keeper import keep
from rhapsody.node.plan import COMMANDS, JOIN_LIMIT_S, LEAVE_AFTER_S, Plan

if TYPE_CHECKING:
    from rhapsody.node.identity import Place


@click.command(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="\b\nExamples:\n"
    "  srun --nodes 4 --ntasks-per-node=1 rhapsody-node --run-dir $RUN -- rhapsody run campaign.py\n"
    "  rhapsody-node --run-dir /run --hosts job-0.svc,job-1.svc --port 7077 --credentials /secret -- rhapsody run …",
)
@click.option(
    "--run-dir",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The run folder; rank 0 says there where it is, and writes deploy/nodes/events.",
)
@click.option("--nodes", type=click.IntRange(1), help="How many nodes there are; else the launcher or --hosts says it.")
@click.option("--rank", type=click.IntRange(0), help="Which one this is, from 0; else the launcher says it.")
@click.option("--name", default="", help="Name of this node; else its hostname.")
@click.option("--hosts", default="", metavar="A,B,...", help="Names of all nodes by rank.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=0,
    help="Port to listen on; with --hosts rank 0 is found there, and no shared run folder is needed.",
)
@click.option(
    "--credentials",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with tls.crt, tls.key and token; else rank 0 makes them for the run, in the run folder.",
)
@click.option(
    "--join-limit",
    type=click.FloatRange(0, min_open=True),
    default=JOIN_LIMIT_S,
    show_default=True,
    metavar="SECONDS",
    help="So long nodes wait for each other.",
)
@click.option(
    "--leave-after",
    type=click.FloatRange(0),
    default=LEAVE_AFTER_S,
    show_default=True,
    metavar="SECONDS",
    help="So long a node other than the first, told to end by SIGTERM, waits for the session to end the whole job.",
)
@click.option(
    "--commands",
    type=click.IntRange(1),
    default=COMMANDS,
    show_default=True,
    help="So many commands may run on this node at a time; more are refused.",
)
@click.argument("session", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
def main(  # noqa: PLR0913, PLR0917 - one for each option
    run_dir: Path,
    nodes: int | None,
    rank: int | None,
    name: str,
    hosts: str,
    port: int,
    credentials: Path | None,
    join_limit: float,
    leave_after: float,
    commands: int,
    session: tuple[str, ...],
) -> None:
    """Join this node to a job, and start COMMAND on rank 0 once all nodes are there.

    Start one on each node of a job, all with the same command line. Agents find each other by the run folder. Whatever
    starts processes on other nodes finds an `ssh` on its PATH that hands command lines to their agents: dragon -w ssh,
    Open MPI and MPICH work with it. The names of the nodes are in the file $RHAPSODY_HOSTFILE.

    The job ends when COMMAND does, with its exit code. Everything that was started through an agent ends with it.
    Agents talk TLS and want a token that is made for the run: no other user can use them.
    """
    all_hosts = tuple(entry.strip() for entry in hosts.split(",") if entry.strip())
    try:
        place = find_place(rank, nodes, all_hosts, os.environ)
        _check(place, session)
        plan = Plan(
            run_dir=run_dir.absolute(),
            place=place,
            names=own_names(name, all_hosts, place.rank, os.environ),
            job=find_job(os.environ),
            hosts=all_hosts,
            port=port,
            credentials=credentials,
            join_limit_s=join_limit,
            leave_after_s=leave_after,
            commands=commands,
            session=session,
        )
        code = keep(plan)
    except RhapsodyError as exc:
        click.echo(f"rhapsody-node: {exc}", err=True)
        sys.exit(2 if isinstance(exc, SpecError) else 1)
    sys.exit(code)


def _check(place: Place, session: tuple[str, ...]) -> None:
    if place.rank == 0 and not session:
        raise SpecError("rank 0 has nothing to start: give the command behind --, as in: -- rhapsody run campaign.py")
