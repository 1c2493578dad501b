"""`rhapsody bench`: repeat the published measurements on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.cli.bench_view import show, show_nodes
from rhapsody.errors import SpecError
from rhapsody.experiments.systems import MODES, PEERS, SLOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.experiments.nodes import Scaling
    from rhapsody.experiments.result import Result
    from rhapsody.experiments.throughput import Measurement

_EPILOG = """\b
Examples:
  rhapsody bench throughput --peer processpool
  rhapsody bench throughput --n 2048 --peer parsl --peer rhapsody-py
  rhapsody bench throughput --latency --map --out results/here
  rhapsody bench throughput --backend local --backend dragon --peer dragon-batch --peer dragon-pool

Each peer is installed by pip, in pinned versions, into ${RHAPSODY_BENCH_ENVS:-.bench-envs}/PEER, the first
time that it is named. A system that fails is left out with a message, and the exit code is then 1.
"""
_NODES_EPILOG = """\b
Examples:
  rhapsody bench nodes --strong-tasks 10000 --repeats 1           # this machine
  srun --ntasks-per-node=1 rhapsody-node --run-dir $RUN -- \\
    rhapsody bench nodes --backend dragon --out $RUN/scaling       # the nodes of a job

docs/experiments.md has whole job scripts.
"""
_SLOW_HELP = f"Largest size for peers that manage few tasks a second: those over Dragon; {SLOW} unless given."
_MODE_HELP = {
    "functions": "No-op functions, one task object each; what is measured when no mode is named.",
    "executables": "Runs of /bin/true; beside them a plain loop of subprocess.run.",
    "latency": "From idle to the result of one task, again and again; beside it a ProcessPoolExecutor.",
    "map": "Session.map over no-op items.",
    "memory": "Resident memory per queued and per finished task.",
    "loop-block": "Longest time that other coroutines wait while tasks are submitted and run.",
    "scaling": "No-op functions from few to very many, RHAPSODY alone: is the cost per task flat?",
}


def _node_counts(_context: click.Context, _option: click.Parameter, text: str | None) -> tuple[int, ...]:
    """Return the numbers in a text such as `1,2,4`; none of nothing."""
    words = text.split(",") if text is not None else []
    if not all(word.strip().isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{text!r} is no list of numbers of nodes, such as 1,2,4")
    return tuple(int(word) for word in words)


@click.group()
def bench() -> None:
    """Measure RHAPSODY on this machine, side by side with other systems."""


def _parameter(mode: str) -> str:
    return f"mode_{mode.replace('-', '_')}"


def _mode_options(command: Callable[..., None]) -> Callable[..., None]:
    for mode in reversed(MODES):
        sizes = ", ".join(f"{size:,}" for size in MODES[mode])
        text = f"{_MODE_HELP[mode]} Sizes: {sizes}."
        command = click.option(f"--{mode}", _parameter(mode), is_flag=True, help=text)(command)
    return command


@bench.command(epilog=_EPILOG)
@_mode_options
@click.option("--n", "sizes", multiple=True, type=click.IntRange(min=1), help="Size instead of the mode's own; repeat.")
@click.option("--peer", "peers", multiple=True, type=click.Choice(list(PEERS)), help="Measure this too; repeat.")
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(min=1), help="Fresh processes per number.")
@click.option("--workers", type=click.IntRange(min=1), help="Of each system; default: CPUs usable here.")
@click.option("--backend", "backends", multiple=True, default=["local"], help="RHAPSODY's; local unless given; repeat.")
@click.option("--no-journal-variant", is_flag=True, help="Leave out RHAPSODY with its journal switched off.")
@click.option("--slow-up-to", type=click.IntRange(min=1), help=_SLOW_HELP)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for result.json and the plot.")
def throughput(  # noqa: PLR0913, PLR0917 - one parameter per option, which click passes by keyword
    sizes: tuple[int, ...],
    peers: tuple[str, ...],
    repeats: int,
    workers: int | None,
    backends: tuple[str, ...],
    no_journal_variant: bool,
    slow_up_to: int | None,
    out: Path | None,
    **chosen: bool,
) -> None:
    """Measure rate, CPU time and latency per task, in which the tasks themselves do nothing.

    Every run is a fresh process; the systems take turns; the median of the runs counts.
    """
    from rhapsody.experiments.throughput import Measurement, Settings  # noqa: PLC0415 - slow to import

    modes = tuple(mode for mode in MODES if chosen[_parameter(mode)]) or ("functions",)
    settings = Settings(
        modes=modes,
        sizes=sizes,
        peer_names=peers,
        repeats=repeats,
        workers=workers or len(os.sched_getaffinity(0)),
        backends=backends,
        journal_off=not no_journal_variant,
        slow_up_to=slow_up_to,
    )
    folder = out or _default_folder("bench-throughput")
    _run(Measurement(settings, folder, _say), lambda result: show(result, folder))


@bench.command(epilog=_NODES_EPILOG)
@click.option(
    "--nodes",
    "node_counts",
    callback=_node_counts,
    metavar="N,…",
    help="How many, such as 1,2,4; default: powers of two.",
)
@click.option("--cores-per-node", type=click.IntRange(min=1), help="Cores to use of each; default: all.")
@click.option("--weak-tasks", default=2_048, show_default=True, type=click.IntRange(min=0), help="A node; 0: none.")
@click.option("--strong-tasks", default=50_000, show_default=True, type=click.IntRange(min=0), help="In all; 0: none.")
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(min=1), help="Fresh processes per point.")
@click.option("--backend", "backends", multiple=True, default=["local"], help="RHAPSODY's; local unless given; repeat.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder that all nodes see, for results.")
def nodes(  # noqa: PLR0913, PLR0917 - one parameter per option, which click passes by keyword
    node_counts: tuple[int, ...],
    cores_per_node: int | None,
    weak_tasks: int,
    strong_tasks: int,
    repeats: int,
    backends: tuple[str, ...],
    out: Path | None,
) -> None:
    """Measure weak and strong scaling over the nodes of the job that this command runs in.

    Experiment 1 of the RHAPSODY paper: no-op functions, so many for each node, then so many in all; throughput,
    overhead and utilization, beside what the paper reports. Outside of a job there is one node, this machine.
    """
    from rhapsody.backends.discover import find_allocation  # noqa: PLC0415 - slow to import
    from rhapsody.experiments.nodes import Scaling, Settings, default_node_counts  # noqa: PLC0415

    if not weak_tasks and not strong_tasks:
        raise click.UsageError("--weak-tasks and --strong-tasks are both 0: there is nothing to measure")
    folder = out or _default_folder("bench-nodes")
    try:
        allocation = find_allocation(cores_per_node)
        settings = Settings(
            node_counts=node_counts or default_node_counts(allocation),
            weak_tasks=weak_tasks,
            strong_tasks=strong_tasks,
            repeats=repeats,
            backends=backends,
        )
        scaling = Scaling(settings, allocation, folder, _say)
    except SpecError as exc:
        raise click.UsageError(str(exc)) from exc
    _run(scaling, lambda result: show_nodes(result, folder))


def _run(measurement: Measurement | Scaling, show_result: Callable[[Result], None]) -> None:
    """Measure; exit with 1 where something failed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: what is there is kept
    try:
        show_result(measurement.run())
    finally:
        signal.signal(signal.SIGTERM, before)
    if measurement.problems:
        raise SystemExit(1)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _default_folder(name: str) -> Path:
    return Path(os.environ.get("RHAPSODY_RUNS") or "runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
