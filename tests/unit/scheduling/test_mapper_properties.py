"""What the mapper keeps whatever is placed, released and withdrawn in whatever order."""

from __future__ import annotations

from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rhapsody.errors import SpecError
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Placement, Resources
from rhapsody.scheduling.mapper import Mapper

SHAPES = (
    NodeShape(cores=1),
    NodeShape(cores=6, numa=((0, 1, 2), (3, 4, 5)), memory_bytes=100),
    NodeShape(cores=8, gpus=2, reserved_cores=(0,), gpu_cores=((4, 5, 6, 7), (0, 1, 2, 3)), memory_bytes=64),
    NodeShape(cores=5, gpus=3, reserved_cores=(1, 4)),
)
POLICIES = (Policy(), Policy(placement="spread"), Policy(oversubscribe=True))

allocations = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=5).map(
    lambda shapes: Allocation(nodes=tuple(Node(name=f"n{i}", shape=shape) for i, shape in enumerate(shapes)))
)
requests = st.just(SERIAL) | st.builds(
    Resources,
    ranks=st.integers(1, 9),
    cores_per_rank=st.integers(1, 7),
    gpus_per_rank=st.sampled_from((0, 0, 1, 2)),
    memory_per_rank=st.sampled_from((0, 0, 7, 33, 64, 100)),
    ranks_per_node=st.none() | st.integers(1, 4),
    exclusive=st.sampled_from((False, False, True)),
)
withins = st.none() | st.sets(st.integers(0, 4), min_size=1)
places = st.tuples(requests, st.sampled_from(POLICIES), withins)
releases = st.integers(0, 99)
losses = st.frozensets(st.integers(0, 9), max_size=2)
"""Most of these name no node, so that some are left in most cases."""

Step = tuple[Resources, Policy, set[int] | None] | int | frozenset[int]
Held = list[tuple[Resources, Placement]]
NONE: frozenset[int] = frozenset()


def free_on(
    allocation: Allocation, held: Held, node: int, *, shared: bool, lost: frozenset[int] = NONE
) -> tuple[int, int, int, bool]:
    """Return the free cores of a layer, GPUs and bytes of a node, and whether it is idle, from what is held."""
    if node in lost:
        return 0, 0, 0, False
    shape = allocation.nodes[node].shape
    cores = set(range(shape.cores)) - set(shape.reserved_cores)
    gpus, memory, idle = shape.gpus, shape.memory_bytes, True
    for _, placement in held:
        if node in placement.nodes_held:
            return 0, 0, 0, False
        for slot in placement.slots:
            if slot.node == node:
                idle = False
                gpus -= len(slot.gpus)
                memory -= placement.memory_bytes
                if placement.shared is shared:
                    cores -= set(slot.cores)
    return len(cores), gpus, memory, idle


def room(request: Resources, free: tuple[int, int, int, bool]) -> int:
    cores, gpus, memory, idle = free
    limits = [cores // request.cores_per_rank]
    if request.gpus_per_rank:
        limits.append(gpus // request.gpus_per_rank)
    if request.memory_bytes:
        limits.append(memory // request.memory_bytes)
    if request.ranks_per_node is not None:
        limits.append(request.ranks_per_node)
    return min(limits) if idle or not request.exclusive else 0


def fits(allocation: Allocation, held: Held, request: Resources, nodes: set[int], *, shared: bool) -> bool:
    return sum(room(request, free_on(allocation, held, node, shared=shared)) for node in nodes) >= request.ranks


def wraps(allocation: Allocation, request: Resources, nodes: set[int]) -> bool:
    """Return whether idle nodes hold the ranks of a request that may share cores with each other."""
    free = {node: free_on(allocation, [], node, shared=True) for node in nodes}
    enough = request.ranks * request.cores_per_rank
    around = [(enough, *each[1:]) for each in free.values() if each[0] >= request.cores_per_rank]
    return sum(room(request, each) for each in around) >= request.ranks


def assert_answers(request: Resources, placement: Placement, allocation: Allocation, nodes: set[int]) -> None:
    """Assert that a placement is what was asked for, on existing, usable cores."""
    assert len(placement.slots) == request.ranks
    assert placement.memory_bytes == request.memory_bytes
    order = [slot.node for slot in placement.slots]
    assert order == sorted(order)
    assert set(order) <= nodes
    assert request.ranks_per_node is None or max(Counter(order).values()) <= request.ranks_per_node
    assert placement.nodes_held == (placement.nodes if request.exclusive else ())
    for node, cores, gpus in placement.slots:
        shape = allocation.nodes[node].shape
        assert (len(cores), len(gpus)) == (request.cores_per_rank, request.gpus_per_rank)
        assert list(cores) == sorted(set(cores))
        assert list(gpus) == sorted(set(gpus))
        assert set(cores) <= set(range(shape.cores)) - set(shape.reserved_cores)
        assert set(gpus) <= set(range(shape.gpus))


def assert_nothing_twice(allocation: Allocation, held: Held, mapper: Mapper, lost: frozenset[int]) -> None:
    cores: Counter[tuple[bool, int, int]] = Counter()
    gpus: Counter[tuple[int, int]] = Counter()
    memory: Counter[int] = Counter()
    users: Counter[int] = Counter()
    for _, placement in held:
        cores.update({(placement.shared, slot.node, core) for slot in placement.slots for core in slot.cores})
        gpus.update((slot.node, gpu) for slot in placement.slots for gpu in slot.gpus)
        memory.update(slot.node for slot in placement.slots for _ in range(placement.memory_bytes))
        users.update(placement.nodes)
    assert max([*cores.values(), *gpus.values()], default=1) == 1
    assert all(taken <= allocation.nodes[node].shape.memory_bytes for node, taken in memory.items())
    assert all(users[node] == 1 for _, placement in held for node in placement.nodes_held)
    nodes = range(len(allocation.nodes))
    states = [free_on(allocation, held, node, shared=False, lost=lost) for node in nodes]
    assert mapper.free_cores == sum(state[0] for state in states)
    assert mapper.free_gpus == sum(state[1] for state in states)


def state_of(mapper: Mapper) -> list[object]:
    """Return all that a mapper knows of what is free."""
    layers = [layer for layer in (mapper._ordinary, mapper._shared, mapper._both) if layer is not None]
    known: list[object] = [mapper._gpus, mapper._memory, mapper.free_cores, mapper.free_gpus]
    for layer in (layers * 3)[:3]:
        buckets = [sorted(bucket) for bucket in layer.buckets]
        filled = sum(1 << state for state, bucket in enumerate(buckets) if bucket)
        known.append((layer.free, layer.total, layer.occupied, buckets, layer.occupied == filled))
    return known


class Machine:
    """A mapper, and what is held and lost by another account than its own."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        self.mapper = Mapper(allocation)
        self.held: Held = []
        self.lost = NONE
        self.everywhere = set(range(len(allocation.nodes)))

    def step(self, step: Step) -> None:
        if isinstance(step, int):
            if self.held:
                self.mapper.release(self.held.pop(step % len(self.held))[1])
        elif isinstance(step, frozenset):
            nodes = step & self.everywhere
            assert self.mapper.withdraw(nodes) == sorted(nodes - self.lost)
            self.lost |= nodes
        else:
            self.place(*step)
        assert_nothing_twice(self.allocation, self.held, self.mapper, self.lost)

    def place(self, request: Resources, policy: Policy, within: set[int] | None) -> None:
        wanted = self.everywhere if within is None else (within & self.everywhere) or {0}
        nodes = wanted - self.lost
        fitted = fits(self.allocation, self.held, request, nodes, shared=policy.oversubscribe)
        may_fit = fits(self.allocation, [], request, nodes, shared=policy.oversubscribe)
        may_wrap = policy.oversubscribe and wraps(self.allocation, request, nodes)
        try:
            placement = self.mapper.place(request, policy, None if within is None else wanted)
        except SpecError:
            assert within is not None or self.lost
            assert not may_fit
            assert not may_wrap
            return
        if placement is None:
            assert not fitted
            assert may_fit or may_wrap or (within is None and not self.lost), "it would wait for ever"
            return
        if not fitted:  # then the ranks wrap around, which they do only if they must
            assert may_wrap
            assert not may_fit
        assert_answers(request, placement, self.allocation, nodes)
        self.held.append((request, placement))


@settings(max_examples=300, deadline=None)
@given(allocations, st.lists(places | releases | losses, max_size=40))
def test_random_sequences_give_nothing_twice_nothing_lost_and_refuse_nothing_that_fits(
    allocation: Allocation, steps: list[Step]
) -> None:
    machine = Machine(allocation)

    for step in steps:
        machine.step(step)
    for _, placement in machine.held:
        machine.mapper.release(placement)

    mapper, untouched = machine.mapper, Mapper(allocation)
    untouched.withdraw(machine.lost)
    left = [allocation.nodes[node].shape for node in machine.everywhere - machine.lost]
    assert state_of(mapper) == state_of(untouched)
    assert mapper.free_cores == mapper.usable_cores == sum(shape.usable_cores for shape in left)
    assert mapper.free_gpus == sum(shape.gpus for shape in left)


@settings(max_examples=300, deadline=None)
@given(allocations, losses, requests, st.sampled_from(POLICIES))
def test_what_is_left_of_an_allocation_holds_what_one_without_the_lost_nodes_does(
    allocation: Allocation, lost: frozenset[int], request_: Resources, policy: Policy
) -> None:
    left = [node for index, node in enumerate(allocation.nodes) if index not in lost]
    assume(left)
    mapper, smaller = Mapper(allocation), Mapper(Allocation(nodes=tuple(left)))
    mapper.withdraw(lost.intersection(range(len(allocation.nodes))))

    refusal = mapper.refusal(request_, policy)

    assert refusal == smaller.refusal(request_, policy)
    if refusal is None:
        assert mapper.place(request_, policy) is not None


@settings(max_examples=500, deadline=None)
@given(allocations, requests, st.sampled_from(POLICIES))
def test_an_empty_machine_places_exactly_what_check_accepts(
    allocation: Allocation, request_: Resources, policy: Policy
) -> None:
    mapper = Mapper(allocation)
    try:
        mapper.check(request_, policy)
    except SpecError:
        accepted = False
    else:
        accepted = True

    placement = mapper.place(request_, policy)

    assert (placement is not None) is accepted
    if placement is not None:
        assert_answers(request_, placement, allocation, set(range(len(allocation.nodes))))


@settings(max_examples=200, deadline=None)
@given(allocations, st.lists(requests, max_size=12), requests)
def test_pack_uses_as_few_nodes_as_can_hold_the_ranks(
    allocation: Allocation, before: list[Resources], request_: Resources
) -> None:
    request_ = Resources(request_.ranks, request_.cores_per_rank, request_.gpus_per_rank)  # memory orders no nodes
    mapper = Mapper(allocation)
    held = [(other, placement) for other in before if (placement := mapper.place(other, Policy())) is not None]
    rooms = [room(request_, free_on(allocation, held, node, shared=False)) for node in range(len(allocation.nodes))]

    placement = mapper.place(request_, Policy())

    if placement is not None:
        fewest = len(placement.nodes)
        most_roomy = sorted(rooms, reverse=True)
        assert sum(most_roomy[:fewest]) >= request_.ranks
        assert sum(most_roomy[: fewest - 1]) < request_.ranks
