"""What can never fit, and the words for it."""

from __future__ import annotations

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.allocation import NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Resources
from tests.unit.scheduling.machines import PACK, SHARING, mapper_of

GIB = 1 << 30


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
def test_check_says_what_was_asked_and_what_exists_when_a_request_can_never_fit(request_: Resources, text: str) -> None:
    mapper = mapper_of(NodeShape(cores=4, gpus=2, memory_bytes=8 * GIB), NodeShape(cores=10, reserved_cores=(0, 1)))

    with pytest.raises(SpecError) as caught:
        mapper.check(request_, PACK)

    assert text in str(caught.value)


def test_check_refuses_memory_when_the_memory_of_no_node_is_known() -> None:
    mapper = mapper_of(NodeShape(cores=4))

    with pytest.raises(SpecError, match="the memory of no node is known: leave memory_per_rank out"):
        mapper.check(Resources(memory_per_rank=1), PACK)


def test_check_refuses_gpus_when_no_node_has_any() -> None:
    with pytest.raises(SpecError, match="asked for 1 GPU per rank; no node has any"):
        mapper_of(NodeShape(cores=4)).check(Resources(gpus_per_rank=1), PACK)


def test_check_gives_the_same_verdict_again_without_working_it_out() -> None:
    mapper = mapper_of(NodeShape(cores=4))
    verdicts = []

    for _ in range(2):
        mapper.check(Resources(ranks=4), PACK)
        with pytest.raises(SpecError) as caught:
            mapper.check(Resources(ranks=5), PACK)
        verdicts.append(str(caught.value))

    assert verdicts[0] == verdicts[1]
    assert len(mapper._verdicts) == 2


def test_check_accepts_more_ranks_than_cores_only_when_oversubscribing() -> None:
    mapper = mapper_of(NodeShape(cores=4))

    mapper.check(Resources(ranks=9, cores_per_rank=2), SHARING)

    with pytest.raises(SpecError, match="node holds 2 of them"):
        mapper.check(Resources(ranks=9, cores_per_rank=2), PACK)
    with pytest.raises(SpecError, match="5 cores per rank"):
        mapper.check(Resources(cores_per_rank=5), SHARING)


def test_check_lists_the_placement_policies_when_a_name_is_unknown() -> None:
    with pytest.raises(SpecError, match="unknown placement policy 'scatter'; valid: pack, spread"):
        mapper_of(NodeShape(cores=1)).check(SERIAL, Policy(placement="scatter"))
