from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from rhapsody.cli.bench import bench
from rhapsody.experiments.result import Result
from rhapsody.experiments.systems import MODES, PEERS
from rhapsody.experiments.throughput import METRICS, Measurement, Settings, plan, variants

if TYPE_CHECKING:
    from pathlib import Path

BENCH = [sys.executable, "-c", "from rhapsody.cli.bench import bench; bench()"]


def settings(**changes: object) -> Settings:
    fields: dict[str, object] = {
        "modes": ("functions",),
        "sizes": (64,),
        "peer_names": (),
        "repeats": 1,
        "workers": 2,
        "backends": ("local",),
        "journal_off": True,
        **changes,
    }
    return Settings(**fields)  # type: ignore[arg-type]


def test_variants_take_turns_ours_first_and_each_backend_of_a_peer() -> None:
    labels = [variant.label for variant in variants(settings(peer_names=("rhapsody-py", "ray")), "functions")]

    assert labels == [
        "rhapsody (journal on)",
        "rhapsody (journal off)",
        "rhapsody-py (concurrent)",
        "rhapsody-py (noop, no execution)",
        "ray",
    ]


def test_variants_of_several_backends_take_turns_side_by_side() -> None:
    both = settings(backends=("local", "dragon"), journal_off=False)

    labels = [variant.label for variant in variants(both, "functions")]

    assert labels == ["rhapsody (journal on)", "rhapsody (dragon, journal on)"]


def test_variants_without_the_journal_can_be_left_out() -> None:
    labels = [variant.label for variant in variants(settings(journal_off=False), "functions")]

    assert labels == ["rhapsody (journal on)"]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("latency", ["processpool"]),
        ("executables", ["subprocess"]),
        ("map", []),
        ("scaling", []),
    ],
)
def test_variants_of_a_mode_bring_the_baseline_that_belongs_to_it(mode: str, expected: list[str]) -> None:
    names = [variant.system.name for variant in variants(settings(), mode)]

    assert [name for name in names if name != "rhapsody"] == expected


def test_variants_name_a_peer_once_even_when_asked_for_twice() -> None:
    names = [variant.system.name for variant in variants(settings(peer_names=("processpool",) * 2), "latency")]

    assert names.count("processpool") == 1


def test_plan_leaves_out_sizes_that_are_too_large_for_a_slow_peer_and_says_why() -> None:
    wanted = settings(peer_names=("dragon-batch",), sizes=(64, 2_048), journal_off=False)

    found = plan(wanted)

    assert [(variant.label, n) for variant, n in found.runs] == [
        ("rhapsody (journal on)", 64),
        ("dragon-batch", 64),
        ("rhapsody (journal on)", 2_048),
    ]
    assert len(found.left_out) == 1
    assert found.left_out[0].startswith("dragon-batch, functions: not at n=2,048, since it manages few tasks a second")


def test_plan_adds_the_largest_size_of_a_slow_peer_for_all_when_it_can_take_no_other() -> None:
    wanted = settings(peer_names=("dragon-batch", "ray"), sizes=(2_048,), journal_off=False)

    found = plan(wanted)

    assert [(variant.label, n) for variant, n in found.runs] == [
        ("rhapsody (journal on)", 256),
        ("dragon-batch", 256),
        ("ray", 256),
        ("rhapsody (journal on)", 2_048),
        ("ray", 2_048),
    ]


def test_plan_takes_a_slow_peer_as_far_as_the_user_says() -> None:
    wanted = settings(peer_names=("dragon-batch",), sizes=(2_048,), journal_off=False, slow_up_to=4_096)

    found = plan(wanted)

    assert [n for _, n in found.runs] == [2_048, 2_048]
    assert found.left_out == []


def test_plan_limits_dragons_pool_only_where_each_item_travels_alone() -> None:
    found = plan(settings(peer_names=("dragon-pool",), sizes=(50_000,), journal_off=False))

    assert [(variant.label, n) for variant, n in found.runs if variant.system.name == "dragon-pool"] == [
        ("dragon-pool (map)", 4_096),
        ("dragon-pool (map, chunksize 1)", 4_096),
        ("dragon-pool (map)", 50_000),
    ]


def test_measurement_goes_on_when_one_system_fails(tmp_path: Path) -> None:
    said: list[str] = []
    measurement = Measurement(
        settings(backends=("absent",), journal_off=False, peer_names=("processpool",), repeats=2), tmp_path, said.append
    )

    result = measurement.run()

    assert [row.system for row in result.rows] == ["processpool"] * 3
    assert all(len(row.runs) == 2 for row in result.rows)
    assert len(measurement.problems) == 1
    assert "[1/4] rhapsody (absent, journal on)" in measurement.problems[0]
    assert measurement.problems == result.config["problems"]
    assert measurement.problems[0] in said


def test_command_measures_ours_and_a_peer(tmp_path: Path) -> None:
    command = ["throughput", "--n", "64", "--repeats", "1", "--peer", "processpool", "--out", str(tmp_path)]

    done = subprocess.run([*BENCH, *command], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    result = Result.load(tmp_path / "result.json")
    assert {row.label for row in result.rows} == {
        "rhapsody (journal on)",
        "rhapsody (journal off)",
        "processpool",
    }
    assert all(row.unit for row in result.rows)
    assert all(row.median > 0 for row in result.rows if row.metric == "tasks_per_s")
    assert set(result.ratios) == {"tasks_per_s", "main_cpu_us_per_task", "workers_cpu_us_per_task"}
    assert "[3/3] processpool, functions, n=64: tasks_per_s" in done.stderr
    assert str(tmp_path / "result.json") in done.stdout
    assert sorted(os.listdir(tmp_path)) == ["plot.html", "result.json"]  # noqa: PTH208


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "functions"])
def test_command_measures_every_mode(mode: str, tmp_path: Path) -> None:
    command = ["throughput", f"--{mode}", "--n", "200", "--repeats", "1", "--workers", "1", "--out", str(tmp_path)]

    done = CliRunner().invoke(bench, command)

    assert done.exit_code == 0, done.output
    content = json.loads((tmp_path / "result.json").read_text())
    assert {row["options"]["mode"] for row in content["rows"]} == {mode}
    assert {row["metric"] for row in content["rows"]} <= set(METRICS)
    assert {row["system"] for row in content["rows"]} >= {"rhapsody"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--n", "0"], "0 is not in the range x>=1"),
        (["--n", "many"], "'many' is not a valid integer"),
        (["--peer", "rey"], "is not one of 'rhapsody-py', 'parsl', 'dask', 'ray', 'processpool', "),
        (["--repeats", "0"], "0 is not in the range x>=1"),
        (["--workers", "0"], "0 is not in the range x>=1"),
    ],
)
def test_command_refuses_a_bad_option_and_says_what_is_valid(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(bench, ["throughput", *arguments])

    assert done.exit_code == 2
    assert said in done.output


def test_command_exits_with_1_when_a_system_failed(tmp_path: Path) -> None:
    command = ["throughput", "--n", "64", "--repeats", "1", "--backend", "absent", "--out", str(tmp_path)]

    done = CliRunner().invoke(bench, command)

    assert done.exit_code == 1
    assert "problem: [1/2] rhapsody (absent, journal on)" in done.output
    assert (tmp_path / "result.json").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda sent: sent.name)
def test_command_keeps_what_it_has_when_interrupted(sent: signal.Signals, tmp_path: Path) -> None:
    command = ["throughput", "--n", "64", "--repeats", "500", "--no-journal-variant", "--out", str(tmp_path)]
    command = ["/usr/bin/env", f"--default-signal={sent.name.removeprefix('SIG')}", *BENCH, *command]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        while not running.stderr.readline().startswith("[1/500]"):
            assert running.poll() is None

        running.send_signal(sent)

        rest = running.stderr.read()
    assert running.returncode == 1
    assert "interrupted" in rest
    assert len(Result.load(tmp_path / "result.json").rows) == 3


def test_command_help_names_every_mode_and_peer() -> None:
    text = CliRunner().invoke(bench, ["throughput", "--help"]).output

    assert [mode for mode in MODES if f"--{mode}" not in text] == []
    assert [name for name in PEERS if name not in text] == []
