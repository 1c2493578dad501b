"""What the mapper promises, rule by rule; random sequences are in test_mapper_properties.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Placement, Resources
from rhapsody.scheduling.mapper import Mapper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import FreeNodes

PACK = Policy()
SPREAD = Policy(placement="spread")
SHARING = Policy(oversubscribe=True)
GIB = 1 << 30

GPU_NODE = NodeShape(
    cores=16,
    gpus=4,
    reserved_cores=(0, 8),
    numa=(tuple(range(8)), tuple(range(8, 16))),
    gpu_cores=((12, 13, 14, 15), (8, 9, 10, 11), (4, 5, 6, 7), (0, 1, 2, 3)),
)
"""Usable: 7 cores in each of two domains; the GPUs are near them in reverse order."""


def mapper_of(*shapes: NodeShape) -> Mapper:
    nodes = tuple(Node(name=f"n{number}", shape=shape) for number, shape in enumerate(shapes))
    return Mapper(Allocation(nodes=nodes))


def placed(mapper: Mapper, request: Resources = SERIAL, policy: Policy = PACK) -> Placement:
    placement = mapper.place(request, policy)
    assert placement is not None
    return placement


def nodes_of(placement: Placement) -> list[int]:
    return [slot.node for slot in placement.slots]


def occupy(mapper: Mapper, node: int, cores: int) -> Placement:
    """Take the lowest cores of one node."""
    placement = mapper.place(Resources(cores_per_rank=cores), PACK, within=[node])
    assert placement is not None
    return placement


class Fixed:
    """A user's policy that always chooses the same."""

    def __init__(self, *chosen: tuple[int, int]) -> None:
        self.chosen = chosen

    def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:
        return self.chosen


# What can never fit


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (
            Resources(cores_per_rank=9),
            "asked for 9 cores per rank; the largest node has 8 usable cores (node 'n1', 10 cores, 2 reserved)",
        ),
        (Resources(gpus_per_rank=3), "asked for 3 GPUs per rank; the most on one node is 2 (node 'n0')"),
        (
            Resources(memory_per_rank="9GiB"),
            "asked for 9.0GiB of memory per rank; the largest node has 8.0GiB (node 'n0')",
        ),
        (Resources(cores_per_rank=8, gpus_per_rank=1), "no node of all together"),
        (Resources(ranks=13), "asked for 13 ranks, 1 core per rank; 2 nodes hold 12 of them, at most 8 on one node"),
        (Resources(ranks=3, gpus_per_rank=1), "2 nodes hold 2 of them"),
        (Resources(ranks=3, memory_per_rank="4GiB"), "2 nodes hold 2 of them"),
        (Resources(ranks=7, ranks_per_node=3), "2 nodes hold 6 of them, with ranks_per_node=3; raise ranks_per_node"),
        (Resources(ranks=13, exclusive=True), "2 nodes hold 12 of them"),
    ],
)
def test_check_says_what_was_asked_and_what_exists_when_a_request_can_never_fit(request_: Resources, text: str):
    mapper = mapper_of(NodeShape(cores=4, gpus=2, memory_bytes=8 * GIB), NodeShape(cores=10, reserved_cores=(0, 1)))

    with pytest.raises(SpecError) as caught:
        mapper.check(request_, PACK)

    assert text in str(caught.value)


def test_check_refuses_memory_when_the_memory_of_no_node_is_known():
    mapper = mapper_of(NodeShape(cores=4))

    with pytest.raises(SpecError, match="the memory of no node is known: leave memory_per_rank out"):
        mapper.check(Resources(memory_per_rank=1), PACK)


def test_check_refuses_gpus_when_no_node_has_any():
    with pytest.raises(SpecError, match="asked for 1 GPU per rank; no node has any"):
        mapper_of(NodeShape(cores=4)).check(Resources(gpus_per_rank=1), PACK)


def test_check_gives_the_same_verdict_again_without_working_it_out():
    mapper = mapper_of(NodeShape(cores=4))
    verdicts = []

    for _ in range(2):
        mapper.check(Resources(ranks=4), PACK)
        with pytest.raises(SpecError) as caught:
            mapper.check(Resources(ranks=5), PACK)
        verdicts.append(str(caught.value))

    assert verdicts[0] == verdicts[1]
    assert len(mapper._verdicts) == 2


def test_check_accepts_more_ranks_than_cores_only_when_oversubscribing():
    mapper = mapper_of(NodeShape(cores=4))

    mapper.check(Resources(ranks=9, cores_per_rank=2), SHARING)

    with pytest.raises(SpecError, match="node holds 2 of them"):
        mapper.check(Resources(ranks=9, cores_per_rank=2), PACK)
    with pytest.raises(SpecError, match="5 cores per rank"):
        mapper.check(Resources(cores_per_rank=5), SHARING)


def test_check_lists_the_placement_policies_when_a_name_is_unknown():
    with pytest.raises(SpecError, match="unknown placement policy 'scatter'; valid: pack, spread"):
        mapper_of(NodeShape(cores=1)).check(SERIAL, Policy(placement="scatter"))


# Cores


def test_place_gives_every_usable_core_once_and_no_reserved_one():
    mapper = mapper_of(GPU_NODE)

    cores = [placed(mapper).slots[0].cores[0] for _ in range(14)]

    assert sorted(cores) == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]
    assert mapper.place(SERIAL, PACK) is None


def test_place_binds_the_lowest_cores_of_the_smallest_domain_that_holds_a_rank():
    mapper = mapper_of(NodeShape(cores=12, numa=((0, 1, 2, 3, 4, 5), (6, 7, 8), (9, 10, 11))))
    placed(mapper, Resources(cores_per_rank=1))

    pair = placed(mapper, Resources(cores_per_rank=2))
    triple = placed(mapper, Resources(cores_per_rank=3))

    assert pair.slots[0].cores == (7, 8)
    assert triple.slots[0].cores == (9, 10, 11)


def test_place_goes_across_domains_only_when_none_holds_a_rank():
    mapper = mapper_of(NodeShape(cores=6, numa=((0, 1, 2), (3, 4, 5))))

    across = placed(mapper, Resources(cores_per_rank=4))
    inside = placed(mapper, Resources(cores_per_rank=2))

    assert across.slots[0].cores == (0, 1, 2, 3)
    assert inside.slots[0].cores == (4, 5)


def test_place_keeps_the_ranks_of_a_node_next_to_each_other_in_rank_order():
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=4))

    for policy in (PACK, SPREAD):
        placement = placed(mapper, Resources(ranks=6), policy)
        assert nodes_of(placement) == sorted(nodes_of(placement))
        mapper.release(placement)


# GPUs


def test_place_binds_each_rank_to_the_cores_near_its_gpu():
    mapper = mapper_of(GPU_NODE)

    placement = placed(mapper, Resources(ranks=4, cores_per_rank=3, gpus_per_rank=1))

    bound = {slot.gpus: slot.cores for slot in placement.slots}
    assert bound == {(0,): (12, 13, 14), (1,): (9, 10, 11), (2,): (4, 5, 6), (3,): (1, 2, 3)}


def test_place_takes_the_gpu_whose_near_cores_are_free_when_those_of_another_are_taken():
    mapper = mapper_of(GPU_NODE)
    first = placed(mapper, Resources(cores_per_rank=4, gpus_per_rank=1))
    assert first.slots[0].gpus == (0,)
    occupy(mapper, 0, 3)  # the rest of the smaller domain, near GPU 1

    placement = placed(mapper, Resources(cores_per_rank=2, gpus_per_rank=1))

    assert placement.slots[0].gpus == (2,)
    assert placement.slots[0].cores == (4, 5)


def test_place_falls_back_to_any_free_cores_when_the_near_ones_are_taken():
    shape = NodeShape(cores=4, gpus=1, gpu_cores=((0, 1),))
    mapper = mapper_of(shape)
    occupy(mapper, 0, 2)

    placement = placed(mapper, Resources(cores_per_rank=2, gpus_per_rank=1))

    assert placement.slots[0] == (0, (2, 3), (0,))


def test_place_takes_cores_of_the_gpus_domain_before_others_when_the_near_ones_do_not_suffice():
    shape = NodeShape(cores=8, gpus=1, numa=((0, 1, 2, 3), (4, 5, 6, 7)), gpu_cores=((6, 7),))

    placement = placed(mapper_of(shape), Resources(cores_per_rank=5, gpus_per_rank=1))

    assert placement.slots[0].cores == (0, 4, 5, 6, 7)


def test_place_gives_no_gpu_twice():
    mapper = mapper_of(GPU_NODE)

    gpus = [placed(mapper, Resources(gpus_per_rank=2)).slots[0].gpus for _ in range(2)]

    assert gpus == [(0, 1), (2, 3)]
    assert mapper.free_gpus == 0
    assert mapper.place(Resources(gpus_per_rank=1), PACK) is None


# Memory


def test_place_reserves_memory_to_the_byte():
    mapper = mapper_of(NodeShape(cores=8, memory_bytes=100))
    third = Resources(memory_per_rank=33)

    placements = [placed(mapper, third) for _ in range(3)]

    assert placements[0].memory_bytes == 33
    assert mapper.place(Resources(memory_per_rank=2), PACK) is None
    assert mapper.place(Resources(memory_per_rank=1), PACK) is not None


def test_place_finds_the_one_node_with_memory_left_among_many_alike():
    mapper = mapper_of(*[NodeShape(cores=4, memory_bytes=100)] * 50)
    taken = [placed(mapper, Resources(memory_per_rank=100)) for _ in range(50)]
    mapper.release(taken[17])
    occupy(mapper, taken[17].slots[0].node, 1)

    placement = placed(mapper, Resources(memory_per_rank=60))

    assert nodes_of(placement) == nodes_of(taken[17])


def test_place_sees_each_node_once_after_memory_was_taken_and_given_back():
    mapper = mapper_of(*[NodeShape(cores=2, memory_bytes=100)] * 2)
    for _ in range(3):
        mapper.release(placed(mapper, Resources(memory_per_rank=100)))

    placement = placed(mapper, Resources(ranks=2, memory_per_rank=1), SPREAD)

    assert nodes_of(placement) == [0, 1]


def test_place_knows_the_memory_that_an_oversubscribing_task_left():
    mapper = mapper_of(NodeShape(cores=2, memory_bytes=100))
    mapper.release(placed(mapper, Resources(memory_per_rank=100)))
    placed(mapper, Resources(ranks=2, memory_per_rank=30), SHARING)

    assert mapper.place(Resources(memory_per_rank=41), PACK) is None
    assert mapper.place(Resources(memory_per_rank=40), PACK) is not None


def test_place_never_asks_nodes_of_unknown_memory_for_memory():
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=8, memory_bytes=100))

    placements = [placed(mapper, Resources(memory_per_rank=1), policy) for policy in (PACK, SPREAD)]

    assert [nodes_of(placement) for placement in placements] == [[1], [1]]


# Exclusive nodes


def test_place_takes_idle_nodes_whole_when_exclusive():
    mapper = mapper_of(*[GPU_NODE] * 3)
    occupy(mapper, 0, 1)

    placement = placed(mapper, Resources(ranks=2, ranks_per_node=1, exclusive=True))

    assert placement.nodes_held == (1, 2)
    assert [len(slot.cores) for slot in placement.slots] == [1, 1]
    assert (mapper.free_cores, mapper.free_gpus) == (13, 4)
    assert mapper.place(Resources(exclusive=True), PACK) is None
    assert nodes_of(placed(mapper, Resources(ranks=13))) == [0] * 13


def test_release_gives_an_exclusive_node_back_whole():
    mapper = mapper_of(GPU_NODE)
    placement = placed(mapper, Resources(exclusive=True))

    mapper.release(placement)

    assert (mapper.free_cores, mapper.free_gpus) == (14, 4)
    assert mapper.place(Resources(ranks=14), PACK) is not None


def test_place_keeps_the_first_sharing_task_off_nodes_that_are_already_held():
    mapper = mapper_of(NodeShape(cores=1), NodeShape(cores=1))
    exclusive = placed(mapper, Resources(exclusive=True))

    sharing = placed(mapper, SERIAL, SHARING)

    assert nodes_of(sharing) != nodes_of(exclusive)
    assert mapper.place(SERIAL, SHARING) is None


def test_place_lets_wrapping_ranks_wait_for_idle_nodes_when_exclusive():
    mapper = mapper_of(NodeShape(cores=2))
    ordinary = placed(mapper)

    waiting = mapper.place(Resources(ranks=3, exclusive=True), SHARING)
    mapper.release(ordinary)
    placement = placed(mapper, Resources(ranks=3, exclusive=True), SHARING)

    assert waiting is None
    assert placement.nodes_held == (0,)
    assert mapper.place(SERIAL, PACK) is None


def test_place_holds_an_exclusive_node_back_from_sharing_tasks_too():
    mapper = mapper_of(NodeShape(cores=2), NodeShape(cores=2))
    sharing = placed(mapper, SERIAL, SHARING)

    exclusive = placed(mapper, Resources(exclusive=True))

    assert nodes_of(exclusive) != nodes_of(sharing)
    assert nodes_of(placed(mapper, SERIAL, SHARING)) == nodes_of(sharing)
    assert mapper.place(SERIAL, SHARING) is None
    assert mapper.place(Resources(exclusive=True), PACK) is None


# Pack, spread, ranks per node


def test_pack_takes_the_fullest_node_that_holds_all_ranks():
    mapper = mapper_of(*[NodeShape(cores=8)] * 3)
    occupy(mapper, 1, 3)
    occupy(mapper, 2, 5)

    placements = [placed(mapper, Resources(ranks=ranks)) for ranks in (4, 3, 2)]

    assert [placement.nodes for placement in placements] == [(1,), (2,), (0,)]


def test_pack_takes_the_nodes_with_the_most_room_and_the_fullest_for_the_rest():
    mapper = mapper_of(*[NodeShape(cores=8)] * 4)
    occupy(mapper, 0, 2)
    occupy(mapper, 2, 6)

    placement = placed(mapper, Resources(ranks=18))

    assert nodes_of(placement) == [1] * 8 + [2] * 2 + [3] * 8


def test_pack_counts_room_in_ranks_when_gpus_are_scarce():
    mapper = mapper_of(NodeShape(cores=64, gpus=1), NodeShape(cores=4, gpus=4), NodeShape(cores=4, gpus=4))

    placement = placed(mapper, Resources(ranks=8, gpus_per_rank=1))

    assert placement.nodes == (1, 2)


def test_spread_gives_one_rank_to_each_node_in_turn_the_emptiest_first():
    mapper = mapper_of(*[NodeShape(cores=4)] * 3)
    occupy(mapper, 0, 3)

    pair = placed(mapper, Resources(ranks=2), SPREAD)
    mapper.release(pair)
    six = placed(mapper, Resources(ranks=6), SPREAD)

    assert nodes_of(pair) == [1, 2]
    assert nodes_of(six) == [0, 1, 1, 1, 2, 2] or nodes_of(six) == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("policy", [PACK, SPREAD])
def test_place_puts_no_more_than_ranks_per_node_on_a_node(policy: Policy):
    mapper = mapper_of(*[NodeShape(cores=8)] * 4)

    placement = placed(mapper, Resources(ranks=7, ranks_per_node=2), policy)

    assert sorted(nodes_of(placement).count(node) for node in placement.nodes) == [1, 2, 2, 2]


# Users' own policies


def test_place_follows_a_users_policy_and_merges_what_it_says_of_one_node():
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
def test_place_refuses_what_a_users_policy_chose_wrongly(policy: Fixed, text: str):
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=4))
    occupy(mapper, 0, 3)

    with pytest.raises(SpecError) as caught:
        mapper.place(Resources(ranks=3), Policy(placement=policy))

    assert text in str(caught.value)
    assert mapper.free_cores == 5


def test_place_asks_a_users_policy_with_a_true_view_of_what_is_free():
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


# Oversubscription


def test_oversubscribing_tasks_take_each_core_once_more_and_not_twice():
    mapper = mapper_of(NodeShape(cores=2))
    ordinary = placed(mapper, Resources(ranks=2))

    sharing = placed(mapper, Resources(ranks=2), SHARING)

    assert (ordinary.shared, sharing.shared) == (False, True)
    assert sharing.slots == ordinary.slots
    assert mapper.place(SERIAL, SHARING) is None
    assert mapper.place(SERIAL, PACK) is None


def test_oversubscribing_tasks_prefer_cores_that_nobody_has():
    mapper = mapper_of(*[NodeShape(cores=2)] * 2)
    occupied = placed(mapper, Resources(cores_per_rank=1))

    placements = [placed(mapper, SERIAL, SHARING) for _ in range(4)]

    slots = [placement.slots[0] for placement in placements]
    assert slots[3] == occupied.slots[0]
    assert len(set(slots)) == 4


def test_ordinary_tasks_prefer_cores_that_no_oversubscribing_task_has():
    mapper = mapper_of(NodeShape(cores=4))
    sharing = placed(mapper, Resources(cores_per_rank=2), SHARING)

    first, second = (placed(mapper, Resources(cores_per_rank=2)) for _ in range(2))

    assert set(first.slots[0].cores).isdisjoint(sharing.slots[0].cores)
    assert second.slots[0].cores == sharing.slots[0].cores


def test_oversubscribing_tasks_share_no_gpu_and_no_memory():
    mapper = mapper_of(NodeShape(cores=4, gpus=1, memory_bytes=100))
    placed(mapper, Resources(gpus_per_rank=1, memory_per_rank=60))

    assert mapper.place(Resources(gpus_per_rank=1), SHARING) is None
    assert mapper.place(Resources(memory_per_rank=60), SHARING) is None
    assert mapper.place(Resources(memory_per_rank=40), SHARING) is not None


def test_more_ranks_than_cores_wrap_around_when_oversubscribing():
    mapper = mapper_of(NodeShape(cores=4, reserved_cores=(0,)))
    ordinary = placed(mapper)

    placement = placed(mapper, Resources(ranks=4, cores_per_rank=2), SHARING)

    assert [slot.cores for slot in placement.slots] == [(1, 2), (1, 3), (2, 3), (1, 2)]
    assert placement.shared
    assert mapper.place(SERIAL, SHARING) is None
    mapper.release(placement)
    mapper.release(ordinary)
    assert placed(mapper, Resources(ranks=3), SHARING).nodes == (0,)


def test_wrapping_ranks_are_dealt_over_all_nodes_by_their_cores():
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=2))

    placement = placed(mapper, Resources(ranks=12), SHARING)

    assert nodes_of(placement) == [0] * 8 + [1] * 4


def test_wrapping_ranks_wait_until_the_second_layer_is_all_free():
    mapper = mapper_of(NodeShape(cores=4))
    sharing = placed(mapper, SERIAL, SHARING)

    waiting = mapper.place(Resources(ranks=5), SHARING)
    mapper.release(sharing)

    assert waiting is None
    assert mapper.place(Resources(ranks=5), SHARING) is not None


def test_wrapping_ranks_get_a_gpu_each_and_memory_each():
    mapper = mapper_of(NodeShape(cores=2, gpus=4, memory_bytes=100))

    placement = placed(mapper, Resources(ranks=4, gpus_per_rank=1, memory_per_rank=25), SHARING)

    assert [slot.gpus for slot in placement.slots] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(SpecError):
        mapper.check(Resources(ranks=5, gpus_per_rank=1), SHARING)
    with pytest.raises(SpecError):
        mapper.check(Resources(ranks=5, memory_per_rank=25), SHARING)


# Colocation


@pytest.mark.parametrize("policy", [PACK, SPREAD, SHARING])
def test_place_stays_within_the_given_nodes(policy: Policy):
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    placement = mapper.place(Resources(ranks=6), policy, within=(3, 1))

    assert placement is not None
    assert placement.nodes == (1, 3)
    assert mapper.place(Resources(ranks=6), policy, within=(3, 1)) is None


def test_place_follows_the_policy_among_the_given_nodes():
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)
    occupy(mapper, 1, 1)
    occupy(mapper, 2, 2)

    packed = mapper.place(Resources(cores_per_rank=2), PACK, within=(0, 1, 3))
    spread = mapper.place(Resources(cores_per_rank=2), SPREAD, within=(1, 2, 3))

    assert packed is not None
    assert spread is not None
    assert (packed.nodes, spread.nodes) == ((1,), (3,))


def test_place_refuses_a_request_that_can_never_fit_the_given_nodes():
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    with pytest.raises(SpecError, match="on the nodes of another task; those 1 cannot hold it even when all free"):
        mapper.place(Resources(ranks=6), PACK, within=(3,))


def test_place_wraps_around_the_given_nodes_when_they_are_too_small_for_oversubscribing_ranks():
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    placement = mapper.place(Resources(ranks=6), SHARING, within=(3,))

    assert placement is not None
    assert nodes_of(placement) == [3] * 6


# Release


def test_release_refuses_what_is_not_held():
    mapper = mapper_of(NodeShape(cores=2))
    placement = placed(mapper)
    mapper.release(placement)
    placed(mapper)  # the same core again

    with pytest.raises(RuntimeError, match="is not held"):
        mapper.release(placement)
    with pytest.raises(RuntimeError, match="is not held"):
        mapper.release(Placement(placement.slots))
    assert mapper.free_cores == 1


def test_totals_follow_what_is_placed_and_released():
    mapper = mapper_of(GPU_NODE, GPU_NODE)
    before = (mapper.usable_cores, mapper.free_cores, mapper.free_gpus)

    placement = placed(mapper, Resources(ranks=3, cores_per_rank=2, gpus_per_rank=1))
    during = (mapper.usable_cores, mapper.free_cores, mapper.free_gpus)
    mapper.release(placement)

    assert before == (28, 28, 8)
    assert during == (28, 22, 5)
    assert (mapper.usable_cores, mapper.free_cores, mapper.free_gpus) == before
