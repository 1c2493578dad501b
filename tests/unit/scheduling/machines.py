"""Small machines for the tests of the mapper, and what they do all the time."""

from __future__ import annotations

from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Placement, Resources
from rhapsody.scheduling.mapper import Mapper

PACK = Policy()
SPREAD = Policy(placement="spread")
SHARING = Policy(oversubscribe=True)

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
