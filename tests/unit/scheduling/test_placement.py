"""Which nodes are chosen: pack, spread, and policies that users bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.allocation import NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Resources
from tests.unit.scheduling.machines import PACK, SPREAD, mapper_of, nodes_of, occupy, placed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import FreeNodes


class Fixed:
    """A user's policy that always chooses the same."""

    def __init__(self, *chosen: tuple[int, int]) -> None:
        self.chosen = chosen

    def choose(
        self,
        request: Resources,  # noqa: ARG002 - the contract's
        free: FreeNodes,  # noqa: ARG002
    ) -> Sequence[tuple[int, int]] | None:
        return self.chosen


# Pack, spread, ranks per node


def test_pack_takes_the_fullest_node_that_holds_all_ranks() -> None:
    mapper = mapper_of(*[NodeShape(cores=8)] * 3)
    occupy(mapper, 1, 3)
    occupy(mapper, 2, 5)

    placements = [placed(mapper, Resources(ranks=ranks)) for ranks in (4, 3, 2)]

    assert [placement.nodes for placement in placements] == [(1,), (2,), (0,)]


def test_pack_takes_the_nodes_with_the_most_room_and_the_fullest_for_the_rest() -> None:
    mapper = mapper_of(*[NodeShape(cores=8)] * 4)
    occupy(mapper, 0, 2)
    occupy(mapper, 2, 6)

    placement = placed(mapper, Resources(ranks=18))

    assert nodes_of(placement) == [1] * 8 + [2] * 2 + [3] * 8


def test_pack_counts_room_in_ranks_when_gpus_are_scarce() -> None:
    mapper = mapper_of(NodeShape(cores=64, gpus=1), NodeShape(cores=4, gpus=4), NodeShape(cores=4, gpus=4))

    placement = placed(mapper, Resources(ranks=8, gpus_per_rank=1))

    assert placement.nodes == (1, 2)


def test_spread_gives_one_rank_to_each_node_in_turn_the_emptiest_first() -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 3)
    occupy(mapper, 0, 3)

    pair = placed(mapper, Resources(ranks=2), SPREAD)
    mapper.release(pair)
    six = placed(mapper, Resources(ranks=6), SPREAD)

    assert nodes_of(pair) == [1, 2]
    assert nodes_of(six) == [0, 1, 1, 1, 2, 2] or nodes_of(six) == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("policy", [PACK, SPREAD])
def test_place_puts_no_more_than_ranks_per_node_on_a_node(policy: Policy) -> None:
    mapper = mapper_of(*[NodeShape(cores=8)] * 4)

    placement = placed(mapper, Resources(ranks=7, ranks_per_node=2), policy)

    assert sorted(nodes_of(placement).count(node) for node in placement.nodes) == [1, 2, 2, 2]


# Users' own policies


def test_place_follows_a_users_policy_and_merges_what_it_says_of_one_node() -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 3)

    placement = placed(mapper, Resources(ranks=4), Policy(placement=Fixed((2, 1), (0, 2), (2, 1))))

    assert nodes_of(placement) == [2, 2, 0, 0]


@pytest.mark.parametrize(
    ("policy", "text"),
    [
        (Fixed((0, 1)), "placement policy Fixed chose 1 ranks; the request has 3"),
        (Fixed((7, 3)), "chose 3 ranks on node 7: the allocation has nodes 0 to 1"),
        (Fixed((-1, 3)), "chose 3 ranks on node -1: the allocation has nodes 0 to 1"),
        (Fixed((0, 3)), "chose 3 ranks on node 0: it can take 1 now"),
        (Fixed((1, -1), (0, 4)), "chose -1 ranks on node 1: it must be at least 1"),
        (Fixed((0, 1), (1, 2.0)), "placement policy Fixed failed on 3 ranks, 1 core per rank: TypeError"),  # type: ignore[arg-type]
        (Fixed("no pairs"), "placement policy Fixed failed on 3 ranks, 1 core per rank: ValueError"),  # type: ignore[arg-type]
    ],
)
def test_place_refuses_what_a_users_policy_chose_wrongly(policy: Fixed, text: str) -> None:
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=4))
    occupy(mapper, 0, 3)

    with pytest.raises(SpecError) as caught:
        mapper.place(Resources(ranks=3), Policy(placement=policy))

    assert text in str(caught.value)
    assert mapper.free_cores == 5


def test_place_asks_a_users_policy_with_a_true_view_of_what_is_free() -> None:
    class Looking:
        def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:
            seen.append((list(free.fullest_first(request)), list(free.emptiest_first(request))))
            seen.append([free.ranks_that_fit(node, request) for node in range(4)])
            return None

    seen: list[object] = []
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)
    for node, cores in ((0, 4), (1, 1), (3, 3)):
        occupy(mapper, node, cores)

    placement = mapper.place(SERIAL, Policy(placement=Looking()))

    assert placement is None
    assert seen == [([3, 1, 2], [2, 1, 3]), [0, 3, 4, 1]]
