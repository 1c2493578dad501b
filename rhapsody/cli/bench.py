"""`rhapsody bench`: repeat the published measurements on this machine."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rhapsody.experiments.systems import MODES, PEERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from rhapsody.experiments.result import Result, Row

_EPILOG = """\b
Examples:
  rhapsody bench throughput --peer processpool
  rhapsody bench throughput --n 2048 --peer parsl --peer rhapsody-py
  rhapsody bench throughput --latency --map --out results/here

Each peer is installed by pip, in pinned versions, into ${RHAPSODY_BENCH_ENVS:-.bench-envs}/PEER, the first
time that it is named. A system that fails is left out with a message, and the exit code is then 1.
"""
_MODE_HELP = {
    "functions": "No-op functions, one task object each; what is measured when no mode is named.",
    "executables": "Runs of /bin/true; beside them a plain loop of subprocess.run.",
    "latency": "From idle to the result of one task, again and again; beside it a ProcessPoolExecutor.",
    "map": "Session.map over no-op items.",
    "memory": "Resident memory per queued and per finished task.",
    "loop-block": "Longest time that other coroutines wait while tasks are submitted and run.",
    "scaling": "No-op functions from few to very many, RHAPSODY alone: is the cost per task flat?",
}


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
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for result.json and the plot.")
def throughput(  # noqa: PLR0913, PLR0917 - one parameter per option, which click passes by keyword
    sizes: tuple[int, ...],
    peers: tuple[str, ...],
    repeats: int,
    workers: int | None,
    backends: tuple[str, ...],
    no_journal_variant: bool,
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
    )
    folder = out or _default_folder("bench-throughput")
    measurement = Measurement(settings, folder, lambda line: click.echo(line, err=True))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: what is there is kept
    try:
        _show(measurement.run(), folder)
    finally:
        signal.signal(signal.SIGTERM, before)
    if measurement.problems:
        raise SystemExit(1)


def _default_folder(name: str) -> Path:
    return Path(os.environ.get("RHAPSODY_RUNS") or "runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def _show(result: Result, folder: Path) -> None:
    """Write the files, then print what is in them for a person."""
    from rich.console import Console  # noqa: PLC0415 - slow to import

    from rhapsody.experiments.result import draw  # noqa: PLC0415

    path = result.save(folder)
    plot = draw(result, folder)
    console = Console(highlight=False)
    host = result.host
    simulated = " SIMULATED" if result.kind == "simulated" else ""
    console.print(
        f"\n{result.benchmark}{simulated}: {host['cpu']}, {host['cpus']} CPUs, {result.config['workers']} workers,"
        f" load before {host['load_before']:.1f}; medians of {result.repeats} runs;"
        " spread: greatest less least run of the first figure, by its median"
    )
    for mode in dict.fromkeys(row.mode for row in result.rows):
        console.print(_rows_table(mode, [row for row in result.rows if row.mode == mode]))
    for metric, pairs in result.ratios.items():
        console.print(_ratios_table(metric, pairs))
    _show_notes(result)
    click.echo(f"result: {path}")
    click.echo(f"plot:   {plot or 'none: pip install rhapsody-hpc[bench]'}")


def _rows_table(mode: str, rows: list[Row]) -> Table:
    table = _plain_table(mode)
    table.add_column("n", justify="right")
    table.add_column("system")
    metrics = list(dict.fromkeys(row.metric for row in rows))
    for metric in metrics:
        table.add_column(_heading(metric).replace(" ", "\n"), justify="right")
    table.add_column("spread", justify="right")
    previous = 0
    for n, label in dict.fromkeys((row.n, row.label) for row in rows):
        if n != previous:
            table.add_section()
        found = {row.metric: row for row in rows if (row.n, row.label) == (n, label)}
        cells = [_number(found[metric].median) if metric in found else "" for metric in metrics]
        table.add_row(f"{n:,}" if n != previous else "", label, *cells, _spread(found[metrics[0]]))
        previous = n
    return table


def _ratios_table(metric: str, pairs: dict[str, dict[str, float]]) -> Table:
    table = _plain_table(f"RHAPSODY / peer: {_heading(metric)}")
    table.add_column("")
    sizes = sorted({int(n) for by_n in pairs.values() for n in by_n})
    for n in sizes:
        table.add_column(f"n={n:,}", justify="right")
    for pair, by_n in pairs.items():
        table.add_row(pair, *(f"{by_n[str(n)]:.3g}" if str(n) in by_n else "" for n in sizes))
    return table


def _plain_table(title: str) -> Table:
    """Return a table so slim that the widest one fits a terminal of 80 columns."""
    from rich import box  # noqa: PLC0415 - slow to import
    from rich.table import Table  # noqa: PLC0415

    return Table(title=title, title_justify="left", box=box.SIMPLE, pad_edge=False)


def _heading(metric: str) -> str:
    return (
        metric.replace("executable", "exec")
        .replace("_per_", "/")
        .replace("_us", " µs")
        .replace("_ms", " ms")
        .replace("_", " ")
    )


def _spread(row: Row) -> str:
    return f"{(max(row.runs) - min(row.runs)) / row.median:.0%}" if row.median and len(row.runs) > 1 else ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _show_notes(result: Result) -> None:
    click.echo(f"\n{result.config['clock']}")
    for whose, how in result.config["waiting"].items():
        click.echo(f"  {whose}: {how}")
    for problem in result.config["problems"]:
        first, *more = problem.splitlines()  # the whole text was shown when it came up
        click.echo(f"\nproblem: {first}{f' {more[-1].strip()}' if more else ''}", err=True)
    click.echo()
