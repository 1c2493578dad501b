"""The figure of the scaling experiment, as the paper has it: weak and strong, each with throughput and overhead."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rhapsody.experiments.nodes import STRONG, WEAK
from rhapsody.experiments.result import PLOT_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.experiments.result import Result, Row

_PANELS = {WEAK: "weak scaling", STRONG: "strong scaling"}
_COLORS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
_GREY = "#9a9a9a"
# What the paper's text says of its figure 3: nodes and values; its overhead is a range, over all nodes.
_PAPER_RATES = {WEAK: ((16,), (10_000,)), STRONG: ((1, 8, 16), (5_000, 11_000, 11_000))}
_PAPER_OVERHEAD_S = {WEAK: (1, 3)}


def draw_nodes(result: Result, folder: Path) -> Path | None:
    """Write a page with two panels over the number of nodes: throughput on the left axis, overhead on the right one.

    Returns:
        The page's path; None when plotly is not installed.
    """
    if not result.rows or find_spec("plotly") is None:
        return None
    from plotly.subplots import make_subplots  # noqa: PLC0415 - an optional dependency, and slow to import

    modes = [mode for mode in _PANELS if any(row.mode == mode for row in result.rows)]
    figure = make_subplots(
        rows=len(modes),
        cols=1,
        subplot_titles=[_title(result, mode) for mode in modes],
        specs=[[{"secondary_y": True}] for _ in modes],
    )
    for position, mode in enumerate(modes, start=1):
        for trace, on_the_right in _traces(result, mode):
            trace["showlegend"] = all(trace["name"] != drawn.name for drawn in figure.data)
            figure.add_trace(trace, row=position, col=1, secondary_y=on_the_right)
    counts = sorted({int(row.options["nodes"]) for row in result.rows} | {16})
    figure.update_xaxes(type="log", tickvals=counts, title_text="nodes")
    figure.update_yaxes(title_text="throughput TH [tasks/s]", rangemode="tozero", secondary_y=False)
    figure.update_yaxes(title_text="overhead OVH [s]", rangemode="tozero", showgrid=False, secondary_y=True)
    simulated = " - SIMULATED" if result.kind == "simulated" else ""
    figure.update_layout(
        title=f"no-op functions over nodes{simulated}: {result.host.get('cpu', '')}", height=120 + 420 * len(modes)
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLOT_FILE
    figure.write_html(path, include_plotlyjs=True)
    return path


def _title(result: Result, mode: str) -> str:
    tasks = f"{result.config['weak_tasks']:,} a node" if mode == WEAK else f"{result.config['strong_tasks']:,} in all"
    return f"{_PANELS[mode]}: {tasks}"


def _traces(result: Result, mode: str) -> list[tuple[dict[str, Any], bool]]:
    """Return the lines of a panel, each with whether it belongs to the right axis."""
    found = []
    rows = [row for row in result.rows if row.mode == mode]
    for color, backend in zip(_COLORS, dict.fromkeys(row.backend for row in rows), strict=False):
        mine = [row for row in rows if row.backend == backend]
        found.append((_line([row for row in mine if row.metric == "tasks_per_s"], f"TH, {backend}", color), False))
        found.append(
            (_line([row for row in mine if row.metric == "overhead_s"], f"OVH, {backend}", color, "dot"), True)
        )
    counts, rates = _PAPER_RATES[mode]
    found.append((_of_paper("TH, the paper's", counts, rates, "markers"), False))
    bounds = _PAPER_OVERHEAD_S.get(mode, ())
    ranges = [_of_paper("OVH, the paper's range", (1, 16), (bound, bound), "lines") for bound in bounds]
    return [*found, *((line, True) for line in ranges)]


def _line(rows: list[Row], name: str, color: str, dash: str = "solid") -> dict[str, Any]:
    ordered = sorted(rows, key=lambda row: int(row.options["nodes"]))
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "legendgroup": name,
        "marker": {"color": color},
        "line": {"dash": dash},
        "x": [row.options["nodes"] for row in ordered],
        "y": [row.median for row in ordered],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(row.runs) - row.median for row in ordered],
            "arrayminus": [row.median - min(row.runs) for row in ordered],
        },
    }


def _of_paper(name: str, counts: tuple[int, ...], values: tuple[int, ...], how: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": how,
        "name": name,
        "legendgroup": name,
        "marker": {"color": _GREY, "symbol": "x"},
        "line": {"color": _GREY, "dash": "dash"},
        "x": list(counts),
        "y": list(values),
    }
