"""Experiment 1 of the paper: no-op functions on more and more nodes, so many for each (weak), so many in all (strong).

The nodes are those of an `Allocation`; every point is a fresh session on the first of them.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.errors import BackendError, SpecError
from rhapsody.experiments import peers, systems
from rhapsody.experiments.peer_scripts.measure import Order
from rhapsody.experiments.result import Ratios, Reference, Result, Row, describe_host
from rhapsody.experiments.throughput import CLOCK, deadline_s

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.experiments.peer_scripts.measure import Report
    from rhapsody.model.allocation import Allocation

WEAK, STRONG = "weak", "strong"
METRICS = {
    "tasks_per_s": "1/s",
    "overhead_s": "s",
    "core_utilization": "share",
    "main_cpu_us_per_task": "µs",
    "opening_s": "s",
    "submitted_ready_ms": "ms",
    "ready_placed_ms": "ms",
    "placed_running_ms": "ms",
    "running_done_ms": "ms",
}
"""Unit of every metric; the stages are means over the tasks."""
_SCRIPT = peers.HERE / "peer_scripts" / "run_nodes.py"
_OF_THE_JOB = ("RHAPSODY_NODE_", "RHAPSODY_HOSTFILE")
"""Variables by which a session finds the other nodes of its job."""


def _paper(metric: str, low: float, high: float, where: str) -> Reference:
    return Reference(metric=metric, unit=METRICS[metric], low=low, high=high, where=f"Purdue Anvil, {where}")


REFERENCE = {
    "paper, weak, throughput": _paper("tasks_per_s", 10_000, 10_000, "most nodes: more than this"),
    "paper, weak, overhead": _paper("overhead_s", 1, 3, "1 to 16 nodes"),
    "paper, strong, throughput on 1 node": _paper("tasks_per_s", 5_000, 5_000, "1 node"),
    "paper, strong, throughput on 8 nodes": _paper("tasks_per_s", 11_000, 11_000, "8 nodes"),
    "paper, strong, throughput on 16 nodes": _paper("tasks_per_s", 11_000, 11_000, "16 nodes: about this, a plateau"),
}
"""What the RHAPSODY paper reports in section IV-A, of rhapsody-py over Dragon; its own figures, not measured here."""


class Settings(NamedTuple):
    """What is measured.

    Attributes:
        node_counts: On how many nodes; each at most as many as the allocation has.
        weak_tasks: Tasks for each node; 0 leaves weak scaling out.
        strong_tasks: Tasks in all; 0 leaves strong scaling out.
        repeats: Fresh processes per point.
        backends: RHAPSODY's.
    """

    node_counts: tuple[int, ...]
    weak_tasks: int
    strong_tasks: int
    repeats: int
    backends: tuple[str, ...]


class Point(NamedTuple):
    """One session that is measured.

    Attributes:
        mode: `weak` or `strong`.
        nodes: How many it has.
        n: Tasks in all.
        backend: RHAPSODY's.
    """

    mode: str
    nodes: int
    n: int
    backend: str

    def row(self, metric: str, runs: list[float], cores_per_node: int) -> Row:
        """Return the row of some runs."""
        return Row.of_runs(
            runs,
            system=systems.RHAPSODY.name,
            backend=self.backend,
            n=self.n,
            options={"mode": self.mode, "nodes": self.nodes, "cores_per_node": cores_per_node},
            metric=metric,
            unit=METRICS[metric],
        )

    def __str__(self) -> str:
        """Return what people call it."""
        return f"{self.mode}, {self.nodes} node{'s' if self.nodes > 1 else ''}, n={self.n:,}, {self.backend}"


def default_node_counts(allocation: Allocation) -> tuple[int, ...]:
    """Return the powers of two up to the number of nodes."""
    return tuple(1 << power for power in range(len(allocation.nodes).bit_length()))


def require_nodes(counts: Sequence[int], allocation: Allocation) -> None:
    """Make sure that the allocation has as many nodes as are asked for.

    Raises:
        SpecError: It has fewer.
    """
    there = len(allocation.nodes)
    if max(counts) > there:
        raise SpecError(
            f"{max(counts)} nodes are asked for, the allocation ({allocation.source}) has {there}; start the command in"
            f" a larger job, on its nodes by rhapsody-node, or leave out what exceeds {there}"
        )


def points(settings: Settings) -> list[Point]:
    """Return what is measured, each once, the smallest first."""
    found = []
    for nodes in dict.fromkeys(settings.node_counts):
        for mode, n in ((WEAK, settings.weak_tasks * nodes), (STRONG, settings.strong_tasks)):
            found += [Point(mode, nodes, n, backend) for backend in dict.fromkeys(settings.backends) if n]
    return sorted(found, key=lambda point: (point.mode == STRONG, point.nodes))


def scaling_ratios(rows: tuple[Row, ...]) -> Ratios:
    """Return the throughput on several nodes divided by that on the fewest, by mode and backend."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    rates = [row for row in rows if row.metric == "tasks_per_s"]
    for row in rates:
        alike = [other for other in rates if (other.mode, other.backend) == (row.mode, row.backend)]
        least = min(alike, key=lambda other: int(other.options["nodes"]))
        if row is not least and least.median:
            pair = f"{row.mode}, {row.backend}: {row.options['nodes']} nodes / {least.options['nodes']}"
            found[pair][str(row.n)] = float(f"{row.median / least.median:.4g}")
    return {"tasks_per_s": dict(found)} if found else {}


class Scaling:
    """The runs of the experiment, as they come in.

    Args:
        settings: What is measured.
        allocation: The nodes that there are; a point has the first of them.
        out: Folder of the results and journals: on a file system that all nodes see.
        say: Gets one line per run, and several for what failed.

    Attributes:
        problems: What failed; empty when all is well.

    Raises:
        SpecError: There are fewer nodes than asked for.
    """

    def __init__(self, settings: Settings, allocation: Allocation, out: Path, say: Callable[[str], None]) -> None:
        require_nodes(settings.node_counts, allocation)
        self.settings = settings
        self.allocation = allocation
        self.out = out
        self.problems: list[str] = []
        self._say = say
        self._runs: dict[tuple[Point, str], list[float]] = defaultdict(list)
        self._version = ""
        self._waiting = ""
        self._given_up: set[Point] = set()
        self._host = describe_host()

    def run(self) -> Result:
        """Measure all points once, then again; what fails is named in `problems`. Ctrl-C keeps what is there."""
        plan = points(self.settings) * self.settings.repeats
        self.out.mkdir(parents=True, exist_ok=True)
        try:
            for done, point in enumerate(plan, start=1):
                if point not in self._given_up:
                    self._run_once(point, f"[{done}/{len(plan)}] {point}")
        except KeyboardInterrupt:
            self._problem("interrupted: the rows hold what had been measured by then")
        return self.result()

    def result(self) -> Result:
        """Return what was measured so far."""
        cores = self.allocation.nodes[0].shape.usable_cores
        rows = tuple(point.row(metric, runs, cores) for (point, metric), runs in self._runs.items())
        config: dict[str, Any] = {
            **self.settings._asdict(),
            "workers": cores,
            "allocation": {
                "source": self.allocation.source,
                "nodes": len(self.allocation.nodes),
                "usable_cores": [node.shape.usable_cores for node in self.allocation.nodes],
                "oversubscribed": self.allocation.oversubscribed,
            },
            "versions": {systems.RHAPSODY.name: self._version},
            "waiting": {systems.RHAPSODY.name: self._waiting},
            "clock": CLOCK,
            "left_out": [],
            "problems": self.problems,
        }
        return Result(
            benchmark="nodes",
            config=config,
            host=self._host,
            repeats=self.settings.repeats,
            rows=rows,
            ratios=scaling_ratios(rows),
            reference=REFERENCE,
            kind="real",
        )

    def _run_once(self, point: Point, where: str) -> None:
        try:
            report, left = self._measure(point)
        except BackendError as exc:
            self._given_up.add(point)
            self._problem(f"{where}: failed, and is left out from here on: {exc}")
            return
        for metric, value in report.metrics.items():
            self._runs[point, metric].append(value)
        self._version, self._waiting = report.version, report.waiting
        shown = report.metrics
        self._say(f"{where}: {shown['tasks_per_s']:,.0f} tasks/s, overhead {shown['overhead_s']:.3g} s")
        if left:
            self._problem(f"{where}: left running after its own shutdown, and was ended: {'; '.join(left)}")

    def _measure(self, point: Point) -> tuple[Report, list[str]]:
        allocation = self.allocation.model_copy(update={"nodes": self.allocation.nodes[: point.nodes]})
        with tempfile.TemporaryDirectory(prefix=".journals-", dir=self.out) as folder:
            nodes = Path(folder).resolve() / "allocation.json"
            nodes.write_text(allocation.model_dump_json())
            order = Order(
                mode="functions",
                n=point.n,
                workers=allocation.usable_cores,
                backend=point.backend,
                journal=True,
                scratch="",
                runs_dir=str(nodes.parent),
                result="",
                allocation=str(nodes),
            )
            launch = peers.Launch(peers.prepare(systems.RHAPSODY), _SCRIPT, kept=_OF_THE_JOB)
            return peers.run(launch, order, deadline_s(point.n))

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self._say(text)
