"""The mapper: nodes that are gone for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.allocation import NodeShape
from rhapsody.model.resources import SERIAL, Placement, Resources
from tests.unit.scheduling.machines import GPU_NODE, PACK, SHARING, SPREAD, mapper_of, nodes_of, placed

if TYPE_CHECKING:
    from rhapsody.model.policy import Policy
    from rhapsody.scheduling.mapper import Mapper

FOUR = NodeShape(cores=4, gpus=2, memory_bytes=100)
WIDE = Resources(ranks=4, cores_per_rank=2, gpus_per_rank=1, memory_per_rank=50)
"""All of two such nodes."""
HALF = Resources(ranks=2, cores_per_rank=2, gpus_per_rank=1, memory_per_rank=50)


def free_of(mapper: Mapper) -> tuple[int, int]:
    return mapper.free_cores, mapper.free_gpus


def fill(mapper: Mapper, request: Resources = SERIAL) -> list[Placement]:
    """Place as many of a request as fit."""
    placements = []
    while (placement := mapper.place(request, PACK)) is not None:
        placements.append(placement)
    return placements


class TestPlacing:
    @pytest.mark.parametrize("policy", [PACK, SPREAD, SHARING])
    def test_nothing_is_placed_on_a_withdrawn_node(self, policy: Policy) -> None:
        mapper = mapper_of(FOUR, FOUR, FOUR)

        mapper.withdraw([1])

        assert {node for _ in range(8) for node in nodes_of(placed(mapper, SERIAL, policy))} == {0, 2}
        assert mapper.place(SERIAL, policy) is None

    def test_what_can_be_had_is_what_the_other_nodes_have(self) -> None:
        mapper = mapper_of(FOUR, GPU_NODE)
        placed(mapper, SERIAL)

        mapper.withdraw([1])

        assert (mapper.usable_cores, mapper.nodes_left) == (4, 1)
        assert free_of(mapper) == (3, 2)

    def test_to_withdraw_a_node_twice_changes_nothing(self) -> None:
        mapper = mapper_of(FOUR, FOUR, FOUR)

        first = mapper.withdraw([2, 1])
        again = mapper.withdraw([1, 2, 2])

        assert (first, again) == ([1, 2], [])
        assert (mapper.usable_cores, *free_of(mapper)) == (4, 4, 2)

    def test_ranks_wrap_around_the_cores_that_are_left(self) -> None:
        mapper = mapper_of(FOUR, FOUR, FOUR)
        mapper.withdraw([1])

        placement = placed(mapper, Resources(ranks=10), SHARING)

        assert set(nodes_of(placement)) == {0, 2}

    def test_the_second_layer_has_no_withdrawn_node_whenever_it_was_built(self) -> None:
        before, after = mapper_of(FOUR, FOUR), mapper_of(FOUR, FOUR)
        before.release(placed(before, SERIAL, SHARING))

        for mapper in (before, after):
            mapper.withdraw([0])

        for mapper in (before, after):
            assert nodes_of(placed(mapper, Resources(ranks=4), SHARING)) == [1] * 4
            assert mapper.place(SERIAL, SHARING) is None

    def test_an_exclusive_request_gets_an_idle_node_that_is_left(self) -> None:
        mapper = mapper_of(FOUR, FOUR)
        mapper.withdraw([0])

        assert nodes_of(placed(mapper, Resources(exclusive=True))) == [1]
        assert mapper.place(Resources(exclusive=True), PACK) is None


class TestReleasing:
    @pytest.mark.parametrize("request_", [SERIAL, Resources(gpus_per_rank=1), Resources(memory_per_rank=30)])
    def test_what_was_held_on_a_lost_node_stays_taken(self, request_: Resources) -> None:
        mapper = mapper_of(FOUR)
        placement = placed(mapper, request_)

        mapper.withdraw([0])
        mapper.release(placement)

        assert free_of(mapper) == (0, 0)
        with pytest.raises(SpecError, match="no node is left"):
            mapper.place(request_, PACK)

    @pytest.mark.parametrize("request_", [WIDE, Resources(ranks=8), Resources(ranks=8, exclusive=True)])
    def test_of_ranks_on_two_nodes_only_those_on_the_living_one_come_back(self, request_: Resources) -> None:
        mapper = mapper_of(FOUR, FOUR)
        placement = placed(mapper, request_)

        mapper.withdraw([0])
        mapper.release(placement)

        assert free_of(mapper) == (4, 2)
        assert nodes_of(placed(mapper, HALF)) == [1, 1]

    @pytest.mark.parametrize("ranks", [8, 20])
    def test_of_shared_cores_only_those_on_the_living_node_come_back(self, ranks: int) -> None:
        mapper = mapper_of(FOUR, FOUR)
        ordinary, shared = placed(mapper, Resources(ranks=8)), placed(mapper, Resources(ranks=ranks), SHARING)

        mapper.withdraw([1])
        mapper.release(shared)
        again = placed(mapper, Resources(ranks=4), SHARING)
        mapper.release(ordinary)

        assert nodes_of(again) == [0] * 4
        assert free_of(mapper) == (4, 2)

    def test_single_cores_of_living_nodes_come_back_one_by_one(self) -> None:
        mapper = mapper_of(FOUR, FOUR)
        placements = fill(mapper)

        mapper.withdraw([0])
        for placement in placements:
            mapper.release(placement)

        assert free_of(mapper) == (4, 2)
        assert [nodes_of(placement) for placement in fill(mapper)] == [[1]] * 4

    def test_a_placement_is_still_released_only_once(self) -> None:
        mapper = mapper_of(FOUR, FOUR)
        placement = placed(mapper)
        mapper.withdraw(placement.nodes)
        mapper.release(placement)

        with pytest.raises(RuntimeError, match="not held"):
            mapper.release(placement)


class TestRefusing:
    def test_what_only_lost_nodes_could_hold_is_refused_with_their_names(self) -> None:
        mapper = mapper_of(FOUR, GPU_NODE)
        eight = Resources(cores_per_rank=8)
        mapper.check(eight, PACK)

        mapper.withdraw([1])

        text = r"asked for 8 cores per rank; the largest node has 4 usable cores \(node 'n0'\).*; n1 is lost$"
        with pytest.raises(SpecError, match=text):
            mapper.check(eight, PACK)
        with pytest.raises(SpecError, match=text):
            mapper.place(eight, PACK)

    def test_what_still_fits_but_not_now_waits(self) -> None:
        mapper = mapper_of(FOUR, FOUR)
        placed(mapper, Resources(ranks=5))

        mapper.withdraw([1])

        mapper.check(Resources(ranks=4), PACK)
        assert mapper.place(Resources(ranks=4), PACK) is None

    def test_a_request_for_lost_nodes_only_is_refused(self) -> None:
        mapper = mapper_of(FOUR, FOUR)
        mapper.withdraw([1])

        among_both = mapper.place(SERIAL, PACK, within=[0, 1])

        assert among_both is not None
        assert among_both.nodes == (0,)
        with pytest.raises(SpecError, match=r"nodes of another task.*; n1 is lost"):
            mapper.place(SERIAL, PACK, within=[1])

    def test_the_first_of_many_lost_nodes_are_named(self) -> None:
        mapper = mapper_of(*[FOUR] * 6)

        mapper.withdraw([0, 3])
        two = mapper.names_lost([0, 3])
        mapper.withdraw(range(5))

        assert two == "n0 and n3 are lost"
        with pytest.raises(SpecError, match=r"; n0, n1, n2 and 2 more are lost"):
            mapper.check(Resources(ranks=5), PACK)

    def test_of_no_node_everything_is_refused(self) -> None:
        mapper = mapper_of(FOUR)
        mapper.withdraw([0])

        assert mapper.usable_cores == 0
        for policy in (PACK, SPREAD, SHARING):
            with pytest.raises(SpecError, match=r"asked for 1 rank, 1 core per rank; no node is left; n0 is lost"):
                mapper.check(SERIAL, policy)
            with pytest.raises(SpecError, match="no node is left"):
                mapper.place(SERIAL, policy)
