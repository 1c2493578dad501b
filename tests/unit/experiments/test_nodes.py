from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from rhapsody.cli.bench import bench
from rhapsody.errors import BackendError, SpecError
from rhapsody.experiments import peers
from rhapsody.experiments.nodes import (
    METRICS,
    REFERENCE,
    Point,
    Scaling,
    Settings,
    default_node_counts,
    points,
)
from rhapsody.experiments.nodes_plot import draw_nodes
from rhapsody.experiments.peer_scripts.measure import Order, Report
from rhapsody.experiments.result import Result
from rhapsody.model.allocation import Allocation, Node, NodeShape
from tests.requirements import needs_module


def allocation(nodes: int) -> Allocation:
    shape = NodeShape(cores=4, reserved_cores=(0,))
    return Allocation(nodes=tuple(Node(name=f"n{rank}", shape=shape) for rank in range(nodes)), source="job")


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "node_counts": (1, 2, 4),
        "weak_tasks": 100,
        "strong_tasks": 1_000,
        "repeats": 1,
        "backends": ("local",),
        **changes,
    }
    return Settings(**fields)  # type: ignore[arg-type]


class Measured:
    """Stands in for `peers.run`: notes what was to be measured, and reports rates that grow with the nodes."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.names: list[list[str]] = []
        self.launches: list[peers.Launch] = []
        self.fails_on = 0

    def __call__(self, launch: peers.Launch, order: Order, _deadline_s: float) -> tuple[Report, list[str]]:
        given = Allocation.model_validate_json(Path(order.allocation).read_text())
        self.orders.append(order)
        self.launches.append(launch)
        self.names.append([node.name for node in given.nodes])
        if len(given.nodes) == self.fails_on:
            raise BackendError("no way to n1")
        overhead_s = order.n / (1_000 * len(given.nodes))
        metrics = {"tasks_per_s": order.n / overhead_s, "overhead_s": overhead_s, "core_utilization": 0.25}
        return Report(metrics, "1.0", "as usual"), []


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Measured:
    stand_in = Measured()
    monkeypatch.setattr(peers, "run", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("nodes", "expected"), [(1, (1,)), (2, (1, 2)), (3, (1, 2)), (16, (1, 2, 4, 8, 16)), (17, (1, 2, 4, 8, 16))]
)
def test_default_node_counts_are_the_powers_of_two_that_there_are(nodes: int, expected: tuple[int, ...]) -> None:
    assert default_node_counts(allocation(nodes)) == expected


def test_points_of_weak_scaling_have_tasks_for_each_node_those_of_strong_scaling_as_many_in_all() -> None:
    found = points(settings(node_counts=(4, 1, 1)))

    assert found == [
        Point("weak", 1, 100, "local"),
        Point("weak", 4, 400, "local"),
        Point("strong", 1, 1_000, "local"),
        Point("strong", 4, 1_000, "local"),
    ]


def test_points_leave_out_a_mode_without_tasks_and_have_backends_take_turns() -> None:
    found = points(settings(node_counts=(1, 2), strong_tasks=0, backends=("local", "dragon")))

    assert [(point.mode, point.nodes, point.backend) for point in found] == [
        ("weak", 1, "local"),
        ("weak", 1, "dragon"),
        ("weak", 2, "local"),
        ("weak", 2, "dragon"),
    ]


def test_more_nodes_than_there_are_are_refused_with_their_number(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"4 nodes are asked for, the allocation \(job\) has 3"):
        Scaling(settings(), allocation(3), tmp_path, print)


def test_each_point_runs_on_the_first_nodes_of_the_allocation(measured: Measured, tmp_path: Path) -> None:
    Scaling(settings(strong_tasks=0), allocation(4), tmp_path, print).run()

    assert measured.names == [["n0"], ["n0", "n1"], ["n0", "n1", "n2", "n3"]]
    assert [(order.n, order.workers) for order in measured.orders] == [(100, 3), (200, 6), (400, 12)]
    assert all(Path(order.runs_dir).is_relative_to(tmp_path) for order in measured.orders)
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_repeats_go_round_all_points_and_their_median_counts(measured: Measured, tmp_path: Path) -> None:
    result = Scaling(settings(node_counts=(1, 2), repeats=3), allocation(2), tmp_path, print).run()

    assert [order.n for order in measured.orders] == [100, 200, 1_000, 1_000] * 3
    assert {len(row.runs) for row in result.rows} == {3}


def test_result_has_options_ratios_and_the_papers_figures_as_reference_only(measured: Measured, tmp_path: Path) -> None:
    result = Scaling(settings(node_counts=(1, 4)), allocation(4), tmp_path, print).run()

    found = {(row.mode, row.options["nodes"]): row for row in result.rows if row.metric == "tasks_per_s"}
    assert found["weak", 4].median == pytest.approx(4_000)
    assert found["strong", 4].options == {"mode": "strong", "nodes": 4, "cores_per_node": 3}
    assert result.ratios == {
        "tasks_per_s": {"weak, local: 4 nodes / 1": {"400": 4.0}, "strong, local: 4 nodes / 1": {"1000": 4.0}}
    }
    assert result.reference == REFERENCE
    assert result.config["allocation"]["nodes"] == 4
    assert result.kind == "real"


def test_overhead_times_throughput_is_the_number_of_tasks(measured: Measured, tmp_path: Path) -> None:
    result = Scaling(settings(), allocation(4), tmp_path, print).run()

    by_metric = {(row.mode, row.options["nodes"], row.metric): row for row in result.rows}
    rates = {key[:2]: row for key, row in by_metric.items() if key[2] == "tasks_per_s"}
    assert rates
    for point, rate in rates.items():
        assert rate.median * by_metric[*point, "overhead_s"].median == pytest.approx(rate.n)


def test_point_that_fails_is_named_and_the_others_go_on(measured: Measured, tmp_path: Path) -> None:
    measured.fails_on = 2
    scaling = Scaling(settings(strong_tasks=0, repeats=2), allocation(4), tmp_path, print)

    result = scaling.run()

    assert [len(names) for names in measured.names] == [1, 2, 4, 1, 4]
    assert {row.options["nodes"] for row in result.rows} == {1, 4}
    assert len(scaling.problems) == 1
    assert "[2/6] weak, 2 nodes, n=200, local: failed" in scaling.problems[0]
    assert result.config["problems"] == scaling.problems


def test_measuring_process_keeps_what_leads_to_the_other_nodes_and_nothing_else_of_ours(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Scaling(settings(node_counts=(1,)), allocation(1), tmp_path, print).run()
    monkeypatch.undo()
    monkeypatch.setenv("RHAPSODY_NODE_FOLDER", "/of/the/agent")
    monkeypatch.setenv("RHAPSODY_CORES", "99")
    script = tmp_path / "script.py"
    script.write_text(
        "import json, os, sys\n"
        "order = json.loads(sys.argv[1])\n"
        "report = {'metrics': {}, 'version': ' '.join(os.environ), 'waiting': ''}\n"
        "open(order['result'], 'w').write(json.dumps(report))\n"
    )

    report, _ = peers.run(measured.launches[0]._replace(script=script), measured.orders[0], 60)

    assert "RHAPSODY_NODE_FOLDER" in report.version.split()
    assert "RHAPSODY_CORES" not in report.version.split()


@needs_module("plotly", install="plotly")
def test_plot_has_a_panel_for_each_mode_and_marks_what_is_the_papers(measured: Measured, tmp_path: Path) -> None:
    result = Scaling(settings(), allocation(4), tmp_path, print).run()

    page = draw_nodes(result, tmp_path)

    assert page is not None
    text = page.read_text()
    assert "weak scaling: 100 a node" in text
    assert "strong scaling: 1,000 in all" in text
    for name in ("TH, local", "OVH, local", "TH, the paper's", "OVH, the paper's range"):
        assert f'"name":"{name}"' in text.replace("\\u0027", "'")


def test_command_measures_this_machine_and_shows_throughput_overhead_and_utilization(tmp_path: Path) -> None:
    command = ["nodes", "--weak-tasks", "64", "--strong-tasks", "128", "--repeats", "1", "--cores-per-node", "1"]

    done = CliRunner().invoke(bench, [*command, "--out", str(tmp_path)])

    assert done.exit_code == 0, done.output
    result = Result.load(tmp_path / "result.json")
    assert {(row.mode, row.n) for row in result.rows} == {("weak", 64), ("strong", 128)}
    assert {row.metric for row in result.rows} == set(METRICS)
    assert all(0 < row.median <= 1 for row in result.rows if row.metric == "core_utilization")
    assert "weak scaling" in done.output
    assert "what the paper reports, not measured here" in done.output
    assert json.loads((tmp_path / "result.json").read_text())["benchmark"] == "nodes"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "1,0"], "'1,0' is no list of numbers of nodes, such as 1,2,4"),
        (["--nodes", "many"], "'many' is no list of numbers of nodes"),
        (["--nodes", "64"], "64 nodes are asked for, the allocation (affinity) has 1"),
        (["--weak-tasks", "0", "--strong-tasks", "0"], "there is nothing to measure"),
        (["--cores-per-node", "0"], "0 is not in the range x>=1"),
    ],
)
def test_command_refuses_what_cannot_be_measured(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(bench, ["nodes", *arguments])

    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
