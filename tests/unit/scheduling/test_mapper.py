"""What the mapper promises beyond one node: memory, exclusive nodes, the second layer, colocation, release."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.allocation import NodeShape
from rhapsody.model.resources import SERIAL, Placement, Resources
from tests.unit.scheduling.machines import GPU_NODE, PACK, SHARING, SPREAD, mapper_of, nodes_of, occupy, placed

if TYPE_CHECKING:
    from rhapsody.model.policy import Policy
# Memory


def test_place_reserves_memory_to_the_byte() -> None:
    mapper = mapper_of(NodeShape(cores=8, memory_bytes=100))
    third = Resources(memory_per_rank=33)

    placements = [placed(mapper, third) for _ in range(3)]

    assert placements[0].memory_bytes == 33
    assert mapper.place(Resources(memory_per_rank=2), PACK) is None
    assert mapper.place(Resources(memory_per_rank=1), PACK) is not None


def test_place_finds_the_one_node_with_memory_left_among_many_alike() -> None:
    mapper = mapper_of(*[NodeShape(cores=4, memory_bytes=100)] * 50)
    taken = [placed(mapper, Resources(memory_per_rank=100)) for _ in range(50)]
    mapper.release(taken[17])
    occupy(mapper, taken[17].slots[0].node, 1)

    placement = placed(mapper, Resources(memory_per_rank=60))

    assert nodes_of(placement) == nodes_of(taken[17])


def test_place_sees_each_node_once_after_memory_was_taken_and_given_back() -> None:
    mapper = mapper_of(*[NodeShape(cores=2, memory_bytes=100)] * 2)
    for _ in range(3):
        mapper.release(placed(mapper, Resources(memory_per_rank=100)))

    placement = placed(mapper, Resources(ranks=2, memory_per_rank=1), SPREAD)

    assert nodes_of(placement) == [0, 1]


def test_place_knows_the_memory_that_an_oversubscribing_task_left() -> None:
    mapper = mapper_of(NodeShape(cores=2, memory_bytes=100))
    mapper.release(placed(mapper, Resources(memory_per_rank=100)))
    placed(mapper, Resources(ranks=2, memory_per_rank=30), SHARING)

    assert mapper.place(Resources(memory_per_rank=41), PACK) is None
    assert mapper.place(Resources(memory_per_rank=40), PACK) is not None


def test_place_never_asks_nodes_of_unknown_memory_for_memory() -> None:
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=8, memory_bytes=100))

    placements = [placed(mapper, Resources(memory_per_rank=1), policy) for policy in (PACK, SPREAD)]

    assert [nodes_of(placement) for placement in placements] == [[1], [1]]


# Exclusive nodes


def test_place_takes_idle_nodes_whole_when_exclusive() -> None:
    mapper = mapper_of(*[GPU_NODE] * 3)
    occupy(mapper, 0, 1)

    placement = placed(mapper, Resources(ranks=2, ranks_per_node=1, exclusive=True))

    assert placement.nodes_held == (1, 2)
    assert [len(slot.cores) for slot in placement.slots] == [1, 1]
    assert (mapper.free_cores, mapper.free_gpus) == (13, 4)
    assert mapper.place(Resources(exclusive=True), PACK) is None
    assert nodes_of(placed(mapper, Resources(ranks=13))) == [0] * 13


def test_release_gives_an_exclusive_node_back_whole() -> None:
    mapper = mapper_of(GPU_NODE)
    placement = placed(mapper, Resources(exclusive=True))

    mapper.release(placement)

    assert (mapper.free_cores, mapper.free_gpus) == (14, 4)
    assert mapper.place(Resources(ranks=14), PACK) is not None


def test_place_keeps_the_first_sharing_task_off_nodes_that_are_already_held() -> None:
    mapper = mapper_of(NodeShape(cores=1), NodeShape(cores=1))
    exclusive = placed(mapper, Resources(exclusive=True))

    sharing = placed(mapper, SERIAL, SHARING)

    assert nodes_of(sharing) != nodes_of(exclusive)
    assert mapper.place(SERIAL, SHARING) is None


def test_place_lets_wrapping_ranks_wait_for_idle_nodes_when_exclusive() -> None:
    mapper = mapper_of(NodeShape(cores=2))
    ordinary = placed(mapper)

    waiting = mapper.place(Resources(ranks=3, exclusive=True), SHARING)
    mapper.release(ordinary)
    placement = placed(mapper, Resources(ranks=3, exclusive=True), SHARING)

    assert waiting is None
    assert placement.nodes_held == (0,)
    assert mapper.place(SERIAL, PACK) is None


def test_place_holds_an_exclusive_node_back_from_sharing_tasks_too() -> None:
    mapper = mapper_of(NodeShape(cores=2), NodeShape(cores=2))
    sharing = placed(mapper, SERIAL, SHARING)

    exclusive = placed(mapper, Resources(exclusive=True))

    assert nodes_of(exclusive) != nodes_of(sharing)
    assert nodes_of(placed(mapper, SERIAL, SHARING)) == nodes_of(sharing)
    assert mapper.place(SERIAL, SHARING) is None
    assert mapper.place(Resources(exclusive=True), PACK) is None


# Oversubscription


def test_oversubscribing_tasks_take_each_core_once_more_and_not_twice() -> None:
    mapper = mapper_of(NodeShape(cores=2))
    ordinary = placed(mapper, Resources(ranks=2))

    sharing = placed(mapper, Resources(ranks=2), SHARING)

    assert (ordinary.shared, sharing.shared) == (False, True)
    assert sharing.slots == ordinary.slots
    assert mapper.place(SERIAL, SHARING) is None
    assert mapper.place(SERIAL, PACK) is None


def test_oversubscribing_tasks_prefer_cores_that_nobody_has() -> None:
    mapper = mapper_of(*[NodeShape(cores=2)] * 2)
    occupied = placed(mapper, Resources(cores_per_rank=1))

    placements = [placed(mapper, SERIAL, SHARING) for _ in range(4)]

    slots = [placement.slots[0] for placement in placements]
    assert slots[3] == occupied.slots[0]
    assert len(set(slots)) == 4


def test_ordinary_tasks_prefer_cores_that_no_oversubscribing_task_has() -> None:
    mapper = mapper_of(NodeShape(cores=4))
    sharing = placed(mapper, Resources(cores_per_rank=2), SHARING)

    first, second = (placed(mapper, Resources(cores_per_rank=2)) for _ in range(2))

    assert set(first.slots[0].cores).isdisjoint(sharing.slots[0].cores)
    assert second.slots[0].cores == sharing.slots[0].cores


def test_oversubscribing_tasks_share_no_gpu_and_no_memory() -> None:
    mapper = mapper_of(NodeShape(cores=4, gpus=1, memory_bytes=100))
    placed(mapper, Resources(gpus_per_rank=1, memory_per_rank=60))

    assert mapper.place(Resources(gpus_per_rank=1), SHARING) is None
    assert mapper.place(Resources(memory_per_rank=60), SHARING) is None
    assert mapper.place(Resources(memory_per_rank=40), SHARING) is not None


def test_more_ranks_than_cores_wrap_around_when_oversubscribing() -> None:
    mapper = mapper_of(NodeShape(cores=4, reserved_cores=(0,)))
    ordinary = placed(mapper)

    placement = placed(mapper, Resources(ranks=4, cores_per_rank=2), SHARING)

    assert [slot.cores for slot in placement.slots] == [(1, 2), (1, 3), (2, 3), (1, 2)]
    assert placement.shared
    assert mapper.place(SERIAL, SHARING) is None
    mapper.release(placement)
    mapper.release(ordinary)
    assert placed(mapper, Resources(ranks=3), SHARING).nodes == (0,)


def test_wrapping_ranks_are_dealt_over_all_nodes_by_their_cores() -> None:
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=2))

    placement = placed(mapper, Resources(ranks=12), SHARING)

    assert nodes_of(placement) == [0] * 8 + [1] * 4


def test_wrapping_ranks_wait_until_the_second_layer_is_all_free() -> None:
    mapper = mapper_of(NodeShape(cores=4))
    sharing = placed(mapper, SERIAL, SHARING)

    waiting = mapper.place(Resources(ranks=5), SHARING)
    mapper.release(sharing)

    assert waiting is None
    assert mapper.place(Resources(ranks=5), SHARING) is not None


def test_wrapping_ranks_get_a_gpu_each_and_memory_each() -> None:
    mapper = mapper_of(NodeShape(cores=2, gpus=4, memory_bytes=100))

    placement = placed(mapper, Resources(ranks=4, gpus_per_rank=1, memory_per_rank=25), SHARING)

    assert [slot.gpus for slot in placement.slots] == [(0,), (1,), (2,), (3,)]
    with pytest.raises(SpecError):
        mapper.check(Resources(ranks=5, gpus_per_rank=1), SHARING)
    with pytest.raises(SpecError):
        mapper.check(Resources(ranks=5, memory_per_rank=25), SHARING)


# Colocation


@pytest.mark.parametrize("policy", [PACK, SPREAD, SHARING])
def test_place_stays_within_the_given_nodes(policy: Policy) -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    placement = mapper.place(Resources(ranks=6), policy, within=(3, 1))

    assert placement is not None
    assert placement.nodes == (1, 3)
    assert mapper.place(Resources(ranks=6), policy, within=(3, 1)) is None


def test_place_follows_the_policy_among_the_given_nodes() -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)
    occupy(mapper, 1, 1)
    occupy(mapper, 2, 2)

    packed = mapper.place(Resources(cores_per_rank=2), PACK, within=(0, 1, 3))
    spread = mapper.place(Resources(cores_per_rank=2), SPREAD, within=(1, 2, 3))

    assert packed is not None
    assert spread is not None
    assert (packed.nodes, spread.nodes) == ((1,), (3,))


def test_place_refuses_a_request_that_can_never_fit_the_given_nodes() -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    with pytest.raises(SpecError, match="on the nodes of another task; those 1 cannot hold it even when all free"):
        mapper.place(Resources(ranks=6), PACK, within=(3,))


def test_place_wraps_around_the_given_nodes_when_they_are_too_small_for_oversubscribing_ranks() -> None:
    mapper = mapper_of(*[NodeShape(cores=4)] * 4)

    placement = mapper.place(Resources(ranks=6), SHARING, within=(3,))

    assert placement is not None
    assert nodes_of(placement) == [3] * 6


# Release


def test_release_refuses_what_is_not_held() -> None:
    mapper = mapper_of(NodeShape(cores=2))
    placement = placed(mapper)
    mapper.release(placement)
    placed(mapper)  # the same core again

    with pytest.raises(RuntimeError, match="is not held"):
        mapper.release(placement)
    with pytest.raises(RuntimeError, match="is not held"):
        mapper.release(Placement(placement.slots))
    assert mapper.free_cores == 1


def test_totals_follow_what_is_placed_and_released() -> None:
    mapper = mapper_of(GPU_NODE, GPU_NODE)
    before = (mapper.usable_cores, mapper.free_cores, mapper.free_gpus)

    placement = placed(mapper, Resources(ranks=3, cores_per_rank=2, gpus_per_rank=1))
    during = (mapper.usable_cores, mapper.free_cores, mapper.free_gpus)
    mapper.release(placement)

    assert before == (28, 28, 8)
    assert during == (28, 22, 5)
    assert (mapper.usable_cores, mapper.free_cores, mapper.free_gpus) == before
