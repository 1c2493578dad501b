"""Requests for resources."""

from __future__ import annotations

from typing import Any

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Placement, Resources, Slot, parse_bytes

COUNTS = ["ranks", "cores_per_rank", "gpus_per_rank", "ranks_per_node"]


class TestCounts:
    @pytest.mark.parametrize("name", COUNTS)
    @pytest.mark.parametrize("value", [-1, 1.0, "2", True])
    def test_what_is_no_count_is_refused_with_its_name(self, name: str, value: Any) -> None:  # noqa: ANN401
        with pytest.raises(SpecError, match=f"Resources.{name}="):
            Resources(**{name: value})

    @pytest.mark.parametrize("name", ["ranks", "cores_per_rank", "ranks_per_node"])
    def test_zero_is_refused_where_it_makes_no_sense(self, name: str) -> None:
        with pytest.raises(SpecError, match=f"Resources.{name}=0 must be at least 1"):
            Resources(**{name: 0})  # type: ignore[arg-type]


class TestMemory:
    @pytest.mark.parametrize(("text", "size"), [("2GiB", 2 << 30), ("1kB", 1_000), (5, 5), ("0", 0), (0, 0)])
    def test_sizes_are_understood(self, text: str | int, size: int) -> None:
        assert Resources(memory_per_rank=text).memory_bytes == size

    @pytest.mark.parametrize("value", ["much", -1, "-2GiB", None, [1]])
    def test_what_is_no_size_is_refused(self, value: Any) -> None:  # noqa: ANN401 - anything
        with pytest.raises(SpecError, match="here="):
            parse_bytes(value, "here")


class TestMeaning:
    def test_equal_requests_are_one_key(self) -> None:
        assert len({Resources(memory_per_rank="1KiB"), Resources(memory_per_rank="1KiB"), Resources()}) == 2

    @pytest.mark.parametrize(
        ("request_", "is_mpi", "task_type"),
        [
            (SERIAL, False, "serial-cpu-1"),
            (Resources(gpus_per_rank=2), False, "serial-gpu-1"),
            (Resources(ranks=4), True, "mpi-cpu-4"),
            (Resources(mpi=True, gpus_per_rank=1), True, "mpi-gpu-1"),
        ],
    )
    def test_a_request_knows_its_type(self, request_: Resources, is_mpi: bool, task_type: str) -> None:  # noqa: FBT001
        assert (request_.is_mpi, request_.task_type) == (is_mpi, task_type)

    def test_one_core_is_recognised(self) -> None:
        assert Resources().is_single_core
        assert not Resources(exclusive=True).is_single_core

    def test_its_text_says_all_that_was_asked(self) -> None:
        request = Resources(
            ranks=2, cores_per_rank=3, gpus_per_rank=1, memory_per_rank="1GiB", ranks_per_node=1, exclusive=True
        )

        expected = "2 ranks, 3 cores per rank, 1 GPU per rank, 1.0GiB per rank, at most 1 per node, exclusive nodes"
        assert str(request) == expected

    def test_a_placement_names_its_nodes_once_each(self) -> None:
        placement = Placement((Slot(3, (0,)), Slot(1, (0,)), Slot(3, (1,))))

        assert placement.nodes == (1, 3)
