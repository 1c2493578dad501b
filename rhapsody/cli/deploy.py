"""`rhapsody deploy`: a campaign as a batch job, or here and now by the same path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from rhapsody.cli.run import seconds

_EPILOG = """\b
Examples:
  rhapsody deploy --site frontier -A abc123 -N 16 -t 2h campaign.py --dry-run
  rhapsody deploy --site frontier -A abc123 -N 16 -t 2h campaign.py -- --ligands 500
  rhapsody deploy --site mycluster -N 2 -t 12h --chain 5 --wait campaign.py
  rhapsody deploy --site mycluster -N 2 -t 1h --interactive campaign.py
  rhapsody deploy --site mycluster --here campaign.py
  rhapsody deploy --site local campaign.py
  rhapsody deploy --resume campaign-20261121-120000-1a2b

\b
Afterwards, with the job's id or the run folder's name:
  rhapsody status | attach | logs -f | cancel | report

\b
Exit codes: 0 the job is submitted, or with --wait the campaign went well;
1 the batch system did not take it now, or the campaign did not go well; 2 the
input is wrong, or the site does not take such a job; 75 with --wait: the time
was over before all was done.
"""


def _complete_site(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Return the names of sites that begin so, for the shell."""
    from rhapsody.deploy.sites.loading import find_sites  # noqa: PLC0415 - keeps `--help` quick

    return [file.name for file in find_sites() if file.name.startswith(begun)]


def _variables(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} sets nothing; write NAME=VALUE")
        found[name] = value
    return found


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
    epilog=_EPILOG,
)
@click.argument("campaign", type=click.Path(path_type=Path), required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--site",
    metavar="NAME",
    envvar="RHAPSODY_SITE",
    show_envvar=True,
    shell_complete=_complete_site,
    help="The machine: rhapsody sites list. `local` runs it here and now.",
)
@click.option("-A", "--account", metavar="NAME", help="Whom the job is charged to: an account, project or allocation.")
@click.option("-N", "--nodes", metavar="N", type=click.IntRange(min=1), help="Nodes of the job; 1, unless given.")
@click.option(
    "-t", "--walltime", metavar="TIME", callback=seconds, help="Longest the job may take: 2h, 1h30m, 1:30:00."
)
@click.option("-q", "--queue", metavar="NAME", help="Queue, partition or QOS; the site's choice, unless given.")
@click.option("--node-kind", metavar="NAME", help="Kind of nodes, where the site has several: rhapsody sites show.")
@click.option("--account-kind", metavar="KIND", help="What the account pays for, where its name does not tell.")
@click.option("--gpus-per-node", metavar="N", type=click.IntRange(min=0), help="GPUs of each node; all, unless given.")
@click.option("--image", metavar="IMAGE", help="Run it in this container: a file, or a name that the engine knows.")
@click.option("--engine", metavar="NAME", help="Container engine; the site's first, unless given.")
@click.option("--stage/--no-stage", "stage_image", default=None, help="Put the image on the nodes' own disks first.")
@click.option("--host-mpi", is_flag=True, help="Let ranks in the container use the host's MPI.")
@click.option(
    "--collectives",
    type=click.Choice(["off", "on", "dominant"]),
    default="off",
    show_default=True,
    help="Set up RCCL or NCCL as the site says; `dominant`: even where that slows MPI.",
)
@click.option("--env", "environment", metavar="NAME=VALUE", multiple=True, callback=_variables, help="Set in the job.")
@click.option(
    "--set",
    "changes",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change the profile for this job: --set scheduler.requeue=true.",
)
@click.option("--chain", "links", metavar="N", type=click.IntRange(min=1), default=1, help="Up to N jobs in a row.")
@click.option("--after", metavar="JOB", help="Start when this job has ended: its id, or a run that was deployed.")
@click.option("--mail", metavar="ADDRESS", help="Whom the batch system tells of the job.")
@click.option("--reservation", metavar="NAME", help="Use this reservation.")
@click.option("--constraint", metavar="FEATURES", help="Features of the nodes, as the batch system spells them.")
@click.option("--name", metavar="NAME", help="First part of the run folder's name; the file's name, unless given.")
@click.option(
    "--runs",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="RHAPSODY_RUNS",
    show_envvar=True,
    help="Folder that gets the run folder; ./runs, unless given.",
)
@click.option("--backend", metavar="NAME", help="As for rhapsody run; chosen for you, unless given.")
@click.option("--cores", metavar="N", type=click.IntRange(min=1), help="As for rhapsody run: of each node.")
@click.option("--gpus", metavar="N", type=click.IntRange(min=0), help="As for rhapsody run: of each node.")
@click.option("--resume", metavar="TARGET", help="Submit the job of a run again: what is DONE is not run again.")
@click.option("--dry-run", is_flag=True, help="Print the script; write and submit nothing.")
@click.option(
    "--test-only", is_flag=True, help="Let the batch system say whether and when it would start; submit nothing."
)
@click.option("--interactive", is_flag=True, help="Print the command for an interactive job; submit nothing.")
@click.option("--here", is_flag=True, help="Run it in the job that this shell is in.")
@click.option("--on-login-node", is_flag=True, help="With --site local: run it here although this is a login node.")
@click.option("--wait", is_flag=True, help="Follow the job until it has ended; Ctrl-C leaves it alone.")
@click.option("--quiet", is_flag=True, help="Show no progress, only what went wrong and the job's id.")
@click.option("--json", "as_json", is_flag=True, help="Print it for programs.")
@click.pass_context
def deploy(context: click.Context, /, campaign: Path | None, args: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
    """Run a campaign as a job of a batch system, on all nodes of that job.

    CAMPAIGN is a Python file with `async def campaign(session, args)`; ARGS are passed to it. The request is checked
    against the site's rules first, and what it costs is shown. Run it on the machine itself, where you submit jobs;
    no ssh is used. The script, what was asked for and the job's id are kept in the run folder, in deploy/.
    """
    from rhapsody.cli.deployment import DeployOptions, deploy_campaign  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.cli.run import point_out_typos, refuse_unknown_option  # noqa: PLC0415

    if campaign is None and options["resume"] is None:
        raise click.UsageError("Missing argument 'CAMPAIGN'.", ctx=context)
    if options["site"] is None and options["resume"] is None:
        raise click.UsageError("Missing option '--site'; `rhapsody sites list` lists them.", ctx=context)
    refuse_unknown_option(context, str(campaign or ""))
    point_out_typos(context, args)
    context.exit(deploy_campaign(campaign, args, DeployOptions(**options)))
