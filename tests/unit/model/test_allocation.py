"""Allocations, nodes and their shapes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from rhapsody.model.allocation import Allocation, Node, NodeShape


class TestShapes:
    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"cores": 0}, "greater than or equal to 1"),
            ({"cores": 2, "gpus": -1}, "greater than or equal to 0"),
            ({"cores": 2, "reserved_cores": (2,)}, r"core ids \[2\] do not exist"),
            ({"cores": 2, "numa": ((0,), (5,))}, r"core ids \[5\]"),
            ({"cores": 2, "gpus": 2, "gpu_cores": ((0,),)}, "names 1 GPUs, but the node has 2"),
            ({"cores": 2, "reserved_cores": (0, 1)}, "all 2 cores are reserved"),
            ({"cores": 2, "gpu_vendor": "acme"}, "pattern"),
            ({"cores": 2, "colour": "red"}, "colour"),
        ],
    )
    def test_a_shape_that_cannot_be_is_refused(self, values: dict[str, Any], words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            NodeShape(**values)

    def test_reserved_cores_are_counted_once(self) -> None:
        assert NodeShape(cores=4, reserved_cores=(0, 0, 3)).usable_cores == 2


class TestNodes:
    def test_a_core_has_its_own_number_unless_told_otherwise(self) -> None:
        shape = NodeShape(cores=2)

        assert Node(name="a", shape=shape).cpu_of(1) == 1
        assert Node(name="a", shape=shape, cpus=(8, 9)).cpu_of(1) == 9


class TestAllocations:
    def test_it_adds_up_its_nodes(self) -> None:
        first = Node(name="a", shape=NodeShape(cores=4, gpus=1, reserved_cores=(0,)))
        second = Node(name="b", shape=NodeShape(cores=2, gpus=2))

        allocation = Allocation(nodes=(first, second))

        assert (allocation.usable_cores, allocation.gpus) == (5, 3)

    def test_an_empty_one_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="at least 1"):
            Allocation(nodes=())

    def test_it_survives_being_written_down(self) -> None:
        allocation = Allocation(nodes=(Node(name="a", shape=NodeShape(cores=2, numa=((0,), (1,)))),), source="slurm")

        assert Allocation.model_validate_json(allocation.model_dump_json()) == allocation
