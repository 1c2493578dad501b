from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from rhapsody.deploy.sites.nodes import NodeKind
from rhapsody.deploy.sites.profile import Directives, SiteProfile
from rhapsody.deploy.sites.queues import Bin, Queue
from rhapsody.deploy.sites.values import format_cores, format_duration, format_size, parse_cores, parse_duration

ABOUT: dict[str, Any] = {"source": "a test", "checked": "2026-11-21", "confidence": "H"}


@given(st.sets(st.integers(0, 300)))
def test_cores_read_back_as_they_were_written(cores: set[int]) -> None:
    assert parse_cores(format_cores(tuple(sorted(cores)))) == tuple(sorted(cores))


@given(st.integers(0, 10**8))
def test_durations_read_back_as_they_were_written(seconds: int) -> None:
    assert parse_duration(format_duration(timedelta(seconds=seconds))) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("seconds", "text"), [(45, "45s"), (5400, "1h30m"), (604_800, "168h"), (90 * 86_400, "90d"), (0, "0s")]
)
def test_durations_are_told_as_batch_systems_do(seconds: int, text: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize("text", ["8-1", "a", "1,,2", "1-", "0-99999999999", "-1"])
def test_what_names_no_cores_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"no cores|no range"):
        parse_cores(text)


def test_sizes_are_told_in_decimal_units() -> None:
    assert [format_size(size) for size in (512 * 10**9, 3_840 * 10**9, 10)] == ["512 GB", "3.84 TB", "10 bytes"]


def test_a_kind_of_nodes_becomes_the_shape_that_the_mapper_knows() -> None:
    kind = NodeKind.model_validate(
        {
            "name": "gpu",
            "cores": 8,
            "reserved_cores": 0,
            "memory": "16GB",
            "numa": ["0-3", "4-7"],
            "gpus": {"count": 2, "vendor": "amd", "cores": ["4-7", "0-3"]},
        }
    )

    shape = kind.shape()

    assert shape is not None
    assert shape.usable_cores == kind.usable_cores == 7
    assert shape.gpu_cores == ((4, 5, 6, 7), (0, 1, 2, 3))
    assert shape.memory_bytes == 16 * 10**9
    assert shape.gpu_vendor == "amd"


def test_a_kind_whose_cores_are_unknown_has_no_shape() -> None:
    assert NodeKind.model_validate({"name": "gpu", "gpus": {"count": 8, "vendor": "nvidia"}}).shape() is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"cores": 4, "reserved_cores": "0-3"},
        {"cores": 4, "reserved_cores": "4"},
        {"cores": 4, "gpus": {"count": 2, "vendor": "amd", "cores": ["0-1"]}},
        {"cores": 4, "numa": ["0-1", "2-3"], "numa_domains": 4},
        {"reserved_cores": "0"},
        {"cores": 4, "gpus": {"count": 2, "vendor": "voodoo"}},
    ],
)
def test_a_kind_of_nodes_that_contradicts_itself_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        NodeKind.model_validate({"name": "gpu", **wrong})


def test_a_queue_without_bins_has_one_range() -> None:
    queue = Queue(name="q", min_nodes=2, max_nodes=4, max_walltime=timedelta(hours=1))

    assert queue.ranges == (Bin(min_nodes=2, max_nodes=4, max_walltime=timedelta(hours=1)),)


def test_a_queue_has_its_limits_in_its_bins_or_in_itself() -> None:
    with pytest.raises(ValidationError, match="has its limits there"):
        Queue(name="q", max_nodes=4, bins=(Bin(max_nodes=4),))


def test_ranges_run_upwards() -> None:
    with pytest.raises(ValidationError, match="max_nodes is 1, but min_nodes is 2"):
        Bin(min_nodes=2, max_nodes=1)
    with pytest.raises(ValidationError, match="shorter than min_walltime"):
        Queue(name="q", min_walltime=timedelta(hours=2), max_walltime=timedelta(hours=1))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"queues": {**ABOUT, "entries": [{"name": "q", "node_kinds": ["gpu"]}]}}, "kind of nodes 'gpu'"),
        ({"queues": {**ABOUT, "entries": [{"name": "q", "account_kinds": ["gpu"]}]}}, "kind of account 'gpu'"),
        ({"accounts": {**ABOUT, "suffixes": {"gpu": "_g"}}}, "kind of account 'gpu'"),
        ({"nodes": {**ABOUT, "kinds": [{"name": "a"}, {"name": "a"}]}}, "two kinds of nodes are called 'a'"),
    ],
)
def test_names_that_do_not_meet_are_refused(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        SiteProfile.model_validate(
            {"schema": 1, "name": "x", "title": "X", "scheduler": {**ABOUT, "kind": "slurm"}, **wrong}
        )


def test_gres_says_what_it_counts() -> None:
    with pytest.raises(ValidationError, match="give both or neither"):
        Directives.model_validate({**ABOUT, "gpu_option": "gres"})


@pytest.mark.parametrize("text", ["two\nlines", "a\x00b", "", "a\rb", "tab\t"])
def test_a_value_that_could_begin_another_line_of_a_script_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Directives.model_validate({**ABOUT, "options": {"mail": text}})
