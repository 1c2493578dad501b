"""What an experiment found: `result.json`, and the figure drawn from it."""

from __future__ import annotations

import os
import platform
import statistics
from collections import defaultdict
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from rhapsody.errors import SpecError
from rhapsody.model.allocation import FrozenModel

if TYPE_CHECKING:
    from collections.abc import Callable

RESULT_FILE = "result.json"
PLOT_FILE = "plot.html"
Ratios = dict[str, dict[str, dict[str, float]]]
"""metric → `"ours / theirs"` → n → ratio."""


class Row(FrozenModel):
    """One number of one system: every run of it, and their median.

    Attributes:
        system: Whose number it is.
        backend: Which of the system's own backends.
        n: How many tasks, or items.
        options: What else tells rows apart.
        metric: What was measured; the unit is part of the name where it is not obvious.
        unit: Of median and runs.
        median: Of the runs.
        runs: In the order in which they ran.
    """

    system: str
    backend: str
    n: int = Field(ge=1)
    options: dict[str, str | int | bool] = Field(default_factory=dict)
    metric: str
    unit: str
    median: float
    runs: tuple[float, ...] = Field(min_length=1)

    @classmethod
    def of_runs(cls, runs: list[float], **rest: Any) -> Row:  # noqa: ANN401 - the other fields
        """Return the row of these runs."""
        return cls(runs=tuple(runs), median=statistics.median(runs), **rest)

    @property
    def mode(self) -> str:
        """Which part of the experiment the row belongs to; rows of different modes are not compared."""
        return str(self.options.get("mode", ""))

    @property
    def label(self) -> str:
        """System and what sets it apart, for people and as a key of ratios."""
        notes = [] if self.backend in (self.system, "local") else [self.backend]
        if "journal" in self.options:
            notes.append(f"journal {'on' if self.options['journal'] else 'off'}")
        if self.options.get("executes") is False:
            notes.append("no execution")
        return f"{self.system} ({', '.join(notes)})" if notes else self.system


class Reference(FrozenModel):
    """A number measured before, elsewhere; never mixed with the rows.

    Attributes:
        metric: As in `Row`.
        unit: As in `Row`.
        low: Least of what was seen.
        high: Most of what was seen.
        where: On what it was measured.
    """

    metric: str
    unit: str
    low: float
    high: float
    where: str


class Result(FrozenModel):
    """The whole of an experiment.

    Attributes:
        benchmark: Name of the experiment.
        config: With what it was run; `problems` in it lists what failed.
        host: On what.
        repeats: Runs asked for per row.
        rows: What was measured.
        ratios: metric → `"ours / theirs"` → n → median of ours divided by median of theirs.
        reference: Numbers from elsewhere, by system.
        kind: Whether time really passed.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    benchmark: str
    config: dict[str, Any]
    host: dict[str, Any]
    repeats: int = Field(ge=1)
    rows: tuple[Row, ...]
    ratios: Ratios
    reference: dict[str, Reference]
    kind: Literal["real", "simulated"]

    def save(self, folder: Path) -> Path:
        """Write `result.json` into a folder, which is made if need be; return its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RESULT_FILE
        path.write_text(self.model_dump_json(by_alias=True, indent=1) + "\n")
        return path

    @classmethod
    def load(cls, path: Path) -> Result:
        """Return what `save` wrote.

        Raises:
            SpecError: The file is no such result; the text names the field.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except ValidationError as exc:
            raise SpecError(f"{path} is no result of a benchmark:\n{exc}") from exc


def ratios_to_peers(rows: tuple[Row, ...], ours: str = "rhapsody") -> Ratios:
    """Return our medians divided by every peer's, for the same mode, metric and n.

    Systems that execute nothing and medians of zero are left out.

    Args:
        rows: Of one result, so measured side by side.
        ours: The system above the line.
    """

    def are_compared(our: Row, peer: Row) -> bool:
        return our.system == ours != peer.system and bool(peer.options.get("executes", True))

    return _ratios(rows, are_compared)


def ratios_to_local(rows: tuple[Row, ...], ours: str = "rhapsody") -> Ratios:
    """Return the medians over our other backends divided by those over the local one, all else being equal.

    Args:
        rows: Of one result, so measured side by side.
        ours: The system.
    """

    def are_compared(other: Row, local: Row) -> bool:
        return (
            other.system == ours == local.system
            and other.backend != "local" == local.backend
            and other.options == local.options
        )

    return _ratios(rows, are_compared)


def merged(*all_ratios: Ratios) -> Ratios:
    """Return ratios of several kinds as one."""
    found: Ratios = {}
    for ratios in all_ratios:
        for metric, pairs in ratios.items():
            found.setdefault(metric, {}).update(pairs)
    return found


def _ratios(rows: tuple[Row, ...], are_compared: Callable[[Row, Row], bool]) -> Ratios:
    """Return the ratios of rows of the same mode, metric and n; medians of zero are not divided by."""
    groups: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.mode, row.metric, row.n].append(row)
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for (_mode, metric, n), group in groups.items():
        for above, below in product(group, repeat=2):
            if below.median and are_compared(above, below):
                ratio = above.median / below.median
                found[metric][f"{above.label} / {below.label}"][str(n)] = float(f"{ratio:.4g}")
    return {metric: dict(pairs) for metric, pairs in found.items()}


def describe_host() -> dict[str, Any]:
    """Return what matters of this machine for a comparison; its name does not."""
    models = [line for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    memory = [line for line in _lines(Path("/proc/meminfo")) if line.startswith("MemTotal")]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": int(memory[0].split()[1]) * 1024 if memory else 0,
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def draw(result: Result, folder: Path) -> Path | None:
    """Write a page with one figure per metric: medians over n, bars from the least to the greatest run.

    Returns:
        The page's path; None when plotly is not installed.
    """
    if not result.rows or find_spec("plotly") is None:
        return None
    from plotly.subplots import make_subplots  # noqa: PLC0415 - an optional dependency, and slow to import

    panels = list(dict.fromkeys((row.mode, row.metric, row.unit) for row in result.rows))
    labels = list(dict.fromkeys(row.label for row in result.rows))
    titles = [f"{mode} {metric} [{unit}]".strip() for mode, metric, unit in panels]
    figure = make_subplots(rows=len(panels), cols=1, subplot_titles=titles)
    for position, (mode, metric, _unit) in enumerate(panels, start=1):
        for label in labels:
            points = [row for row in result.rows if (row.mode, row.metric, row.label) == (mode, metric, label)]
            if points:
                trace = _trace(sorted(points, key=lambda row: row.n), labels.index(label))
                trace["showlegend"] = all(trace["name"] != drawn.name for drawn in figure.data)
                figure.add_trace(trace, row=position, col=1)
    figure.update_xaxes(type="log", title_text="n")
    figure.update_yaxes(type="log")
    title = f"{result.benchmark}{' - SIMULATED' if result.kind == 'simulated' else ''}"
    figure.update_layout(title=f"{title}: {result.host.get('cpu', '')}", height=120 + 330 * len(panels))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PLOT_FILE
    figure.write_html(path, include_plotlyjs=True)
    return path


def _trace(points: list[Row], color: int) -> dict[str, Any]:
    palette = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": points[0].label,
        "legendgroup": points[0].label,
        "marker": {"color": palette[color % len(palette)]},
        "x": [row.n for row in points],
        "y": [row.median for row in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [max(row.runs) - row.median for row in points],
            "arrayminus": [row.median - min(row.runs) for row in points],
        },
    }


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []
