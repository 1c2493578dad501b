"""Which cores and GPUs of a node a rank gets."""

from __future__ import annotations

from rhapsody.model.allocation import NodeShape
from rhapsody.model.resources import SERIAL, Resources
from tests.unit.scheduling.machines import GPU_NODE, PACK, SPREAD, mapper_of, nodes_of, occupy, placed

# Cores


def test_place_gives_every_usable_core_once_and_no_reserved_one() -> None:
    mapper = mapper_of(GPU_NODE)

    cores = [placed(mapper).slots[0].cores[0] for _ in range(14)]

    assert sorted(cores) == [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15]
    assert mapper.place(SERIAL, PACK) is None


def test_place_binds_the_lowest_cores_of_the_smallest_domain_that_holds_a_rank() -> None:
    mapper = mapper_of(NodeShape(cores=12, numa=((0, 1, 2, 3, 4, 5), (6, 7, 8), (9, 10, 11))))
    placed(mapper, Resources(cores_per_rank=1))

    pair = placed(mapper, Resources(cores_per_rank=2))
    triple = placed(mapper, Resources(cores_per_rank=3))

    assert pair.slots[0].cores == (7, 8)
    assert triple.slots[0].cores == (9, 10, 11)


def test_place_goes_across_domains_only_when_none_holds_a_rank() -> None:
    mapper = mapper_of(NodeShape(cores=6, numa=((0, 1, 2), (3, 4, 5))))

    across = placed(mapper, Resources(cores_per_rank=4))
    inside = placed(mapper, Resources(cores_per_rank=2))

    assert across.slots[0].cores == (0, 1, 2, 3)
    assert inside.slots[0].cores == (4, 5)


def test_place_keeps_the_ranks_of_a_node_next_to_each_other_in_rank_order() -> None:
    mapper = mapper_of(NodeShape(cores=4), NodeShape(cores=4))

    for policy in (PACK, SPREAD):
        placement = placed(mapper, Resources(ranks=6), policy)
        assert nodes_of(placement) == sorted(nodes_of(placement))
        mapper.release(placement)


# GPUs


def test_place_binds_each_rank_to_the_cores_near_its_gpu() -> None:
    mapper = mapper_of(GPU_NODE)

    placement = placed(mapper, Resources(ranks=4, cores_per_rank=3, gpus_per_rank=1))

    bound = {slot.gpus: slot.cores for slot in placement.slots}
    assert bound == {(0,): (12, 13, 14), (1,): (9, 10, 11), (2,): (4, 5, 6), (3,): (1, 2, 3)}


def test_place_takes_the_gpu_whose_near_cores_are_free_when_those_of_another_are_taken() -> None:
    mapper = mapper_of(GPU_NODE)
    first = placed(mapper, Resources(cores_per_rank=4, gpus_per_rank=1))
    assert first.slots[0].gpus == (0,)
    occupy(mapper, 0, 3)  # the rest of the smaller domain, near GPU 1

    placement = placed(mapper, Resources(cores_per_rank=2, gpus_per_rank=1))

    assert placement.slots[0].gpus == (2,)
    assert placement.slots[0].cores == (4, 5)


def test_place_falls_back_to_any_free_cores_when_the_near_ones_are_taken() -> None:
    shape = NodeShape(cores=4, gpus=1, gpu_cores=((0, 1),))
    mapper = mapper_of(shape)
    occupy(mapper, 0, 2)

    placement = placed(mapper, Resources(cores_per_rank=2, gpus_per_rank=1))

    assert placement.slots[0] == (0, (2, 3), (0,))


def test_place_takes_cores_of_the_gpus_domain_before_others_when_the_near_ones_do_not_suffice() -> None:
    shape = NodeShape(cores=8, gpus=1, numa=((0, 1, 2, 3), (4, 5, 6, 7)), gpu_cores=((6, 7),))

    placement = placed(mapper_of(shape), Resources(cores_per_rank=5, gpus_per_rank=1))

    assert placement.slots[0].cores == (0, 4, 5, 6, 7)


def test_place_gives_no_gpu_twice() -> None:
    mapper = mapper_of(GPU_NODE)

    gpus = [placed(mapper, Resources(gpus_per_rank=2)).slots[0].gpus for _ in range(2)]

    assert gpus == [(0, 1), (2, 3)]
    assert mapper.free_gpus == 0
    assert mapper.place(Resources(gpus_per_rank=1), PACK) is None
