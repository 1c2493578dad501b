"""What `rhapsody bench` shows of a result."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table

    from rhapsody.experiments.result import Result, Row

_TITLES = {
    "throughput": "RHAPSODY / peer, its backend / local",
    "nodes": "so many nodes / fewest",
}
"""Of what the ratios are, by benchmark."""


def show(result: Result, folder: Path) -> None:
    """Write the files of a throughput measurement, then print what is in them for a person."""
    from rhapsody.experiments.result import draw  # noqa: PLC0415 - slow to import

    tables = [_rows_table(mode, _of_mode(result, mode)) for mode in _modes(result)]
    _show(result, result.save(folder), draw(result, folder), tables)


def show_nodes(result: Result, folder: Path) -> None:
    """Write the files of a scaling experiment, then print what is in them for a person."""
    from rhapsody.experiments.nodes_plot import draw_nodes  # noqa: PLC0415 - slow to import

    tables = [_nodes_table(mode, _of_mode(result, mode)) for mode in _modes(result)]
    tables.append(_reference_table(result))
    _show(result, result.save(folder), draw_nodes(result, folder), tables)


def _modes(result: Result) -> list[str]:
    return list(dict.fromkeys(row.mode for row in result.rows))


def _of_mode(result: Result, mode: str) -> list[Row]:
    return [row for row in result.rows if row.mode == mode]


def _show(result: Result, path: Path, plot: Path | None, tables: list[Table]) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import

    console = Console(highlight=False)
    host = result.host
    simulated = " SIMULATED" if result.kind == "simulated" else ""
    console.print(
        f"\n{result.benchmark}{simulated}: {host['cpu']}, {host['cpus']} CPUs, {result.config['workers']} workers,"
        f" load before {host['load_before']:.1f}; medians of {result.repeats} runs;"
        " spread: greatest less least run of the first figure, by its median"
    )
    for table in tables:
        console.print(table)
    for metric, pairs in result.ratios.items():
        console.print(_ratios_table(metric, pairs, _TITLES[result.benchmark]))
    _show_notes(result)
    click.echo(f"result: {path}")
    missing = "pip install rhapsody-hpc[bench]" if result.rows else "nothing was measured"
    click.echo(f"plot:   {plot or f'none: {missing}'}")


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


def _nodes_table(mode: str, rows: list[Row]) -> Table:
    """Return a line per number of nodes and backend: throughput, overhead, utilization."""
    table = _plain_table(f"{mode} scaling")
    for heading in ("nodes", "cores", "tasks", "backend", "TH\ntasks/s", "OVH\ns", "OVH\nµs/task", "RU\n%", "spread"):
        table.add_column(heading, justify="left" if heading == "backend" else "right")
    for nodes, backend in dict.fromkeys((int(row.options["nodes"]), row.backend) for row in rows):
        found = {row.metric: row for row in rows if (row.options["nodes"], row.backend) == (nodes, backend)}
        rate, overhead = found["tasks_per_s"], found["overhead_s"]
        table.add_row(
            str(nodes),
            f"{nodes * int(rate.options['cores_per_node']):,}",
            f"{rate.n:,}",
            backend,
            _number(rate.median),
            f"{overhead.median:.3g}",
            _number(overhead.median / rate.n * 1e6),
            _number(found["core_utilization"].median * 100),
            _spread(rate),
        )
    return table


def _reference_table(result: Result) -> Table:
    table = _plain_table("what the paper reports, not measured here")
    for heading in ("", "", "where"):
        table.add_column(heading)
    for name, known in result.reference.items():
        value = f"{known.low:,g}" if known.low == known.high else f"{known.low:,g} to {known.high:,g}"
        table.add_row(name, f"{value} {known.unit}", known.where)
    return table


def _ratios_table(metric: str, pairs: dict[str, dict[str, float]], of_what: str) -> Table:
    table = _plain_table(f"{of_what}: {_heading(metric)}")
    table.add_column("")
    sizes = sorted({int(n) for by_n in pairs.values() for n in by_n})
    for n in sizes:
        table.add_column(f"n={n:,}", justify="right")
    for pair, by_n in pairs.items():
        table.add_row(pair, *(_number(by_n[str(n)]) if str(n) in by_n else "" for n in sizes))
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
    for text in result.config["left_out"]:
        click.echo(f"\nleft out: {text}")
    for problem in result.config["problems"]:
        first, *more = problem.splitlines()  # the whole text was shown when it came up
        click.echo(f"\nproblem: {first}{f' {more[-1].strip()}' if more else ''}", err=True)
    click.echo()
