"""`rhapsody run`: a campaign, here and now."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import click

_EPILOG = """\b
Examples:
  rhapsody run campaign.py --cores 8
  rhapsody run campaign.py --cores 8 -- --ligands 500 --seed 7
  rhapsody run campaign.py --json > summary.json
  rhapsody run --resume runs/campaign-20261121-120000-1a2b
  rhapsody run campaign.py --walltime 2h; test $? -eq 75 && sbatch again.sh

\b
A campaign file, in full:
  from rhapsody import ComputeTask
\b
  def square(number):
      return number * number
\b
  async def campaign(session, args):
      tasks = [ComputeTask(square, args=(n,)) for n in range(100)]
      await session.submit(tasks)
      print(sum([(await task).return_value for task in tasks]))

\b
Exit codes: 0 all went well; 1 a task failed and the campaign did not look at
it, or the campaign raised, or it was interrupted; 2 the input is wrong; 75 the
time was over before all was done: resume it.
"""


def seconds(_context: click.Context, _parameter: click.Parameter, text: str | None) -> float | None:
    """Return the seconds of a duration, for click."""
    from rhapsody.errors import SpecError  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.session.deadline import parse_walltime  # noqa: PLC0415

    try:
        return None if text is None else parse_walltime(text)
    except SpecError as exc:
        raise click.BadParameter(str(exc)) from exc


@click.command(
    context_settings={"ignore_unknown_options": True, "show_default": True, "help_option_names": ["--help"]},
    epilog=_EPILOG,
)
@click.argument("campaign", type=click.Path(path_type=Path), required=False)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--cores",
    metavar="N",
    type=click.IntRange(min=1),
    envvar="RHAPSODY_CORES",
    show_envvar=True,
    help="Cores of each node that tasks may use; all that this process may run on, unless given. More share them.",
)
@click.option(
    "--gpus",
    metavar="N",
    type=click.IntRange(min=0),
    envvar="RHAPSODY_GPUS",
    show_envvar=True,
    help="GPUs of each node that tasks may use; all that are found, unless given.",
)
@click.option(
    "--backend",
    metavar="NAME",
    envvar="RHAPSODY_BACKEND",
    show_envvar=True,
    help="Runtime that executes the tasks; chosen for you, unless given.",
)
@click.option("--name", metavar="NAME", help="First part of the run folder's name; the file's name, unless given.")
@click.option(
    "--placement",
    type=click.Choice(["pack", "spread"]),
    help="Fill one node after the other, or use all evenly; a task's own policy goes first.",
)
@click.option(
    "--runs",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="RHAPSODY_RUNS",
    show_envvar=True,
    help="Folder that gets the run folder; ./runs, unless given.",
)
@click.option(
    "--run-dir",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run folder that was made before, as rhapsody deploy does; one is made below --runs, unless given.",
)
@click.option(
    "--walltime",
    metavar="TIME",
    callback=seconds,
    help="Time until the allocation ends, like 2h, 1h30m or 1:30:00; what the batch system says, unless it is later.",
)
@click.option(
    "--drain",
    metavar="TIME",
    callback=seconds,
    help="Time before that end from which on nothing new starts; 60 s, or a tenth of the whole if less, unless given.",
)
@click.option(
    "--resume",
    metavar="TARGET",
    help="Go on with a run: its folder or uid. What is DONE is not run again, and keeps its value; file, arguments and"
    " options are those of that run, unless given.",
)
@click.option(
    "--rerun-unknown",
    is_flag=True,
    help="With --resume: run again what may have run when the run died, too; else it ends UNKNOWN.",
)
@click.option("--no-journal", is_flag=True, help="Do not record what happened; such a run cannot be looked at later.")
@click.option("--quiet", is_flag=True, help="Show no progress and no summary, only what went wrong.")
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the summary as JSON on standard output; what the campaign prints there goes to standard error.",
)
@click.pass_context
def run(context: click.Context, /, campaign: Path | None, args: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401
    """Run a campaign on this machine, or on all nodes of the job that it belongs to, and show how far it is.

    CAMPAIGN is a Python file with `async def campaign(session, args)`. ARGS are passed to it as a list of texts: all
    that follows the file and is no option of this command, and everything after `--`.

    Ctrl-C lets running tasks end and starts no more; Ctrl-C again, or SIGTERM, stops them. SIGUSR1 says that the
    allocation ends soon: running tasks may end, and no more are started.
    """
    from rhapsody.cli.execution import run_campaign  # noqa: PLC0415 - keeps `--help` quick
    from rhapsody.cli.order import RunOptions  # noqa: PLC0415

    if campaign is None and options["resume"] is None:
        raise click.UsageError("Missing argument 'CAMPAIGN'.", ctx=context)
    refuse_unknown_option(context, str(campaign or ""))
    point_out_typos(context, args)
    context.exit(run_campaign(campaign, args, RunOptions(**options)))


def refuse_unknown_option(context: click.Context, file: str) -> None:
    """Refuse an option in the file's place: before the file, all options are this command's."""
    if file.startswith("-"):
        name = file.partition("=")[0]
        raise click.NoSuchOption(name, possibilities=_similar_options(context, name), ctx=context)


def point_out_typos(context: click.Context, args: tuple[str, ...]) -> None:
    """Say which of the campaign's arguments look like a mistyped option of this command."""
    for arg in args:
        name = arg.partition("=")[0]
        similar = _similar_options(context, name) if name.startswith("--") else []
        if similar and similar[0] != name:
            click.echo(f"rhapsody: {name} goes to the campaign; if you meant {similar[0]}, correct it", err=True)


def _similar_options(context: click.Context, name: str) -> list[str]:
    known = [option for parameter in context.command.params for option in parameter.opts if option.startswith("--")]
    return difflib.get_close_matches(name, known, n=1, cutoff=0.8)
