from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from rhapsody.errors import SpecError
from rhapsody.experiments.result import Reference, Result, Row, draw, merged, ratios_to_local, ratios_to_peers
from tests.requirements import needs_module

if TYPE_CHECKING:
    from pathlib import Path


def row(system: str, runs: list[float], **changes: Any) -> Row:  # noqa: ANN401
    fields = {"backend": system, "n": 64, "metric": "tasks_per_s", "unit": "1/s", **changes}
    return Row.of_runs(runs, system=system, **fields)


def result(*rows: Row, **changes: Any) -> Result:  # noqa: ANN401
    fields: dict[str, Any] = {
        "benchmark": "throughput",
        "config": {"workers": 2},
        "host": {"cpu": "slow one"},
        "repeats": 3,
        "rows": rows,
        "ratios": ratios_to_peers(rows),
        "reference": {"old": Reference(metric="tasks_per_s", unit="1/s", low=1, high=2, where="elsewhere")},
        "kind": "real",
        **changes,
    }
    return Result(**fields)


def test_row_takes_the_median_of_its_runs() -> None:
    odd = row("rhapsody", [30.0, 10.0, 20.0])
    even = row("rhapsody", [4.0, 1.0, 2.0, 3.0])

    assert odd.median == 20.0
    assert odd.runs == (30.0, 10.0, 20.0)
    assert even.median == 2.5


def test_row_label_says_what_sets_it_apart() -> None:
    ours = row("rhapsody", [1.0], backend="local", options={"journal": False})
    noop = row("rhapsody-py", [1.0], backend="noop", options={"executes": False})
    plain = row("ray", [1.0])

    labels = [ours.label, noop.label, plain.label]

    assert labels == ["rhapsody (journal off)", "rhapsody-py (noop, no execution)", "ray"]


def test_ratios_divide_our_medians_by_theirs() -> None:
    on = row("rhapsody", [300.0, 100.0, 200.0], options={"journal": True})
    off = row("rhapsody", [500.0], options={"journal": False})
    ray = row("ray", [10.0, 30.0, 50.0])
    bigger = row("rhapsody", [90.0], n=128, options={"journal": True}), row("ray", [60.0], n=128)

    ratios = ratios_to_peers((on, off, ray, *bigger))

    assert ratios == {
        "tasks_per_s": {
            "rhapsody (journal on) / ray": {"64": 6.667, "128": 1.5},
            "rhapsody (journal off) / ray": {"64": 16.67},
        }
    }


@pytest.mark.parametrize(
    "other",
    [
        row("rhapsody-py", [10.0], options={"executes": False}),
        row("ray", [10.0], n=128),
        row("ray", [10.0], metric="latency_median_us"),
        row("ray", [10.0], options={"mode": "scaling"}),
        row("ray", [0.0]),
    ],
    ids=["no execution", "other n", "other metric", "other mode", "zero"],
)
def test_ratios_leave_out_what_cannot_be_compared(other: Row) -> None:
    ours = row("rhapsody", [20.0])

    ratios = ratios_to_peers((ours, other))

    assert ratios == {}


def test_ratios_to_local_compare_backends_of_equal_options() -> None:
    on = row("rhapsody", [200.0], backend="local", options={"journal": True})
    off = row("rhapsody", [400.0], backend="local", options={"journal": False})
    dragon = row("rhapsody", [100.0], backend="dragon", options={"journal": True})
    ray = row("ray", [10.0])

    ratios = ratios_to_local((on, off, dragon, ray))

    assert ratios == {"tasks_per_s": {"rhapsody (dragon, journal on) / rhapsody (journal on)": {"64": 0.5}}}


def test_merged_ratios_have_all_pairs_of_a_metric() -> None:
    first = {"tasks_per_s": {"a / b": {"64": 1.0}}}
    second = {"tasks_per_s": {"a / c": {"64": 2.0}}, "latency_median_us": {"a / c": {"64": 3.0}}}

    ratios = merged(first, second)

    assert ratios == {
        "tasks_per_s": {"a / b": {"64": 1.0}, "a / c": {"64": 2.0}},
        "latency_median_us": {"a / c": {"64": 3.0}},
    }
    assert first == {"tasks_per_s": {"a / b": {"64": 1.0}}}


def test_result_is_equal_after_saving_and_loading(tmp_path: Path) -> None:
    before = result(row("rhapsody", [2.0, 1.0, 4.0], options={"journal": True, "mode": "functions"}), row("ray", [1.0]))

    path = before.save(tmp_path / "made" / "here")
    after = Result.load(path)

    assert path.name == "result.json"
    assert after == before
    assert after.rows[0].options["journal"] is True


def test_result_file_has_exactly_the_agreed_keys(tmp_path: Path) -> None:
    path = result(row("ray", [1.0])).save(tmp_path)

    content = json.loads(path.read_text())

    assert list(content) == [
        *("schema", "benchmark", "config", "host", "repeats", "rows", "ratios", "reference", "kind"),
    ]
    assert list(content["rows"][0]) == ["system", "backend", "n", "options", "metric", "unit", "median", "runs"]
    assert content["schema"] == 1


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("colour", "red", "colour"), ("schema", 2, "schema"), ("kind", "guessed", "kind"), ("repeats", 0, "repeats")],
)
def test_loading_names_the_field_of_a_wrong_file(key: str, value: object, named: str, tmp_path: Path) -> None:
    path = result(row("ray", [1.0])).save(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    with pytest.raises(SpecError, match=named) as caught:
        Result.load(path)

    assert str(path) in str(caught.value)


def test_row_without_runs_is_refused() -> None:
    with pytest.raises(ValidationError, match="runs"):
        Row(system="ray", backend="ray", n=1, metric="tasks_per_s", unit="1/s", median=1.0, runs=())


@needs_module("plotly", install="plotly")
def test_plot_shows_every_system_and_says_simulated(tmp_path: Path) -> None:
    rows = row("rhapsody", [1.0, 2.0]), row("ray", [3.0]), row("dask", [4.0], metric="latency_median_us", unit="µs")

    page = draw(result(*rows, kind="simulated"), tmp_path)

    assert page is not None
    text = page.read_text()
    assert "SIMULATED" in text
    assert all(f'"name":"{name}"' in text for name in ("rhapsody", "ray", "dask"))


def test_plot_of_nothing_is_not_drawn(tmp_path: Path) -> None:
    assert draw(result(), tmp_path) is None
