"""Binds the ranks of requests to cores and GPUs of the allocation's nodes.

Cores come in two layers. A core can be held by one ordinary task, and besides by one task whose policy says
`oversubscribe`. The second layer is built when the first such task comes; until then nobody pays for it. From then on
both kinds prefer cores that are free in both layers.

A node that was withdrawn looks like one that is full for ever: nothing that places has to know of it. What is released
there stays taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Placement, Slot
from rhapsody.scheduling.binding import Binding, FreeMasks, Topology, bind, bind_around, mask_of_slot
from rhapsody.scheduling.capacity import Capacity, ranks_on
from rhapsody.scheduling.nodes import FreeLayer, Grid, Layer
from rhapsody.scheduling.placement import DEFAULT_PLACEMENT, choose_nodes, placement_policy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from rhapsody.model.allocation import Allocation, NodeShape
    from rhapsody.model.policy import Policy
    from rhapsody.model.resources import Resources

_MOST_CHECKED = 4096
"""The verdicts on so many requests are remembered; then all are forgotten."""


class _Bound(Placement):
    """A placement that knows whether it is held: `release` must be called once, and only once."""

    __slots__ = ("held",)

    held: bool


class Mapper:
    """Knows what is free, places requests and releases placements.

    No call walks over all nodes to place one task, except for what takes all of them: a request that wraps around.

    Args:
        allocation: The nodes; all of them are free at first.

    Attributes:
        lost: Indices of the nodes that were withdrawn.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._shapes = [node.shape for node in allocation.nodes]
        self._capacity = Capacity(allocation)
        self._verdicts: dict[tuple[Resources, bool], str | None] = {}
        self._topologies = _topologies(self._shapes)
        self._grid = Grid(self._shapes)
        self._gpus = [topology.gpus for topology in self._topologies]
        self._memory = [shape.memory_bytes for shape in self._shapes]
        self._ordinary = self._layer([topology.cores for topology in self._topologies])
        self._shared: Layer | None = None
        self._both: Layer | None = None
        self._usable_cores = self._ordinary.total
        self._free_gpus = allocation.gpus
        self._one_core = self._grid.levels(SERIAL)[0]
        self._core_step = self._grid.core_step
        self._nodes_held: set[int] = set()
        self._is_plain = True
        """Whether there is but one layer, and no node was withdrawn: then a core is released in a quick way."""
        self.lost: frozenset[int] = frozenset()

    @property
    def nodes_left(self) -> int:
        """Nodes that were not withdrawn."""
        return len(self._shapes) - len(self.lost)

    @property
    def usable_cores(self) -> int:
        """Cores that tasks can get, over all nodes that are left."""
        return self._usable_cores

    @property
    def free_cores(self) -> int:
        """Cores that no ordinary and no exclusive task holds."""
        return self._ordinary.total

    @property
    def free_gpus(self) -> int:
        """GPUs that no task holds."""
        return self._free_gpus

    def check(self, request: Resources, policy: Policy) -> None:
        """Refuse a request that could not be placed even if all nodes that are left were free.

        A user's placement policy is taken to be able to place what fits.

        Raises:
            SpecError: It can never fit, or its placement policy has an unknown name.
        """
        self._require_fitting(request, wrapping=policy.oversubscribe)
        placement_policy(policy.placement)

    def refusal(self, request: Resources, policy: Policy) -> str | None:
        """Return why a request could not be placed even if all nodes that are left were free, or None if it could."""
        return self._verdict(request, wrapping=policy.oversubscribe)

    def _verdict(self, request: Resources, *, wrapping: bool) -> str | None:
        key = (request, wrapping)
        if key not in self._verdicts:
            if len(self._verdicts) >= _MOST_CHECKED:
                self._verdicts.clear()
            self._verdicts[key] = self._capacity.refusal(request, wrapping=wrapping)
        return self._verdicts[key]

    def _require_fitting(self, request: Resources, *, wrapping: bool) -> None:
        refusal = self._verdict(request, wrapping=wrapping)
        if refusal is not None:
            raise SpecError(f"{refusal}{self._capacity.loss}")

    def place(self, request: Resources, policy: Policy, within: Collection[int] | None = None) -> Placement | None:
        """Bind the ranks of a request to free cores and GPUs, or return None when it does not fit now.

        One slot per rank, in rank order; the ranks of one node follow each other. What is bound stays so until
        `release`. An oversubscribing request with more ranks than the cores of all nodes can take wraps around: it
        waits until the second layer is all free, and its ranks share cores; placement policies are not asked.

        Args:
            request: One that `check` accepted, perhaps before nodes were withdrawn.
            policy: `placement` and `oversubscribe` are followed.
            within: Indices of the only nodes that may be used; the time taken grows with them.

        Raises:
            SpecError: It could never fit `within`, or on the nodes that are left; or a user's placement policy failed
                or chose wrongly.
        """
        placement = policy.placement
        if (
            (request is SERIAL or request == SERIAL)
            and (placement is None or placement == DEFAULT_PLACEMENT)
            and within is None
            and self._shared is None
            and not policy.oversubscribe
        ):
            return self._place_one_core()
        found = self._find(request, policy, within)
        if found is None:
            self._require_possible(request, policy, within)
        return found

    def _require_possible(self, request: Resources, policy: Policy, within: Collection[int] | None) -> None:
        """Refuse what did not fit now and never will."""
        if self.lost:
            self._require_fitting(request, wrapping=policy.oversubscribe)
        if within is None or self._capacity.holds(request, wrapping=policy.oversubscribe, within=within):
            return
        raise SpecError(
            f"asked for {request} on the nodes of another task; those {len(within)} cannot hold it even when all"
            f" free; ask for less, or leave Policy.colocate_with out{self._capacity.loss}"
        )

    def release(self, placement: Placement) -> None:
        """Free what `place` bound, but for what lies on nodes that were withdrawn.

        Raises:
            RuntimeError: It is not held: it was released before, or comes from elsewhere.
        """
        if type(placement) is not _Bound or not placement.held:
            raise RuntimeError(f"{placement} is not held: it was released before, or comes from elsewhere")
        placement.held = False
        slots = placement.slots
        if placement.nodes_held:
            for node in placement.nodes_held:
                if node not in self.lost:
                    self._set_whole(node, free=True)
        elif len(slots) == 1 and self._is_plain and not slots[0].gpus and not placement.memory_bytes:
            self._release_cores(slots[0])
        else:
            own = self._shared if placement.shared and self._shared is not None else self._ordinary
            for node, ranks, cores, gpus in _by_node(slots):
                if node not in self.lost:
                    self._flip(node, own, cores, gpus, ranks * placement.memory_bytes)

    def withdraw(self, nodes: Iterable[int]) -> list[int]:
        """Place nothing on some nodes from now on, for good; what is held there may still be released.

        Args:
            nodes: Indices in the allocation.

        Returns:
            Those that were not withdrawn before, ascending.
        """
        fresh = sorted(set(nodes) - self.lost)
        for node in fresh:
            self._usable_cores -= self._shapes[node].usable_cores
            self._free_gpus -= self._gpus[node].bit_count()
            self._gpus[node] = self._memory[node] = 0
            for layer in (self._ordinary, self._shared, self._both):
                if layer is not None:
                    layer.set_free(node, 0)
        if fresh:
            self._capacity.withdraw(fresh)
            self.lost = self._capacity.lost
            self._nodes_held -= self.lost
            self._is_plain = False
            self._verdicts.clear()
        return fresh

    def names_lost(self, nodes: Sequence[int]) -> str:
        """Return the words that some nodes are lost, with their names; at least one node."""
        return self._capacity.names_lost(nodes)

    def _place_one_core(self) -> Placement | None:
        """Place one core on the fullest node: what `_find` would do, for the request that comes a million times."""
        layer = self._ordinary
        hits = layer.occupied & self._one_core
        if not hits:
            if self.lost:
                self._require_fitting(SERIAL, wrapping=False)
            return None
        state = (hits & -hits).bit_length() - 1
        node = layer.buckets[state][-1]
        free = layer.free[node]
        core, core_ids = self._topologies[node].next_core[free]
        layer.free[node] = free ^ core
        layer.total -= 1
        layer.move(node, state - self._core_step)
        placement = _Bound((Slot(node, core_ids),))
        placement.held = True
        return placement

    def _release_cores(self, slot: Slot) -> None:
        layer = self._ordinary
        node, cores, _ = slot
        layer.free[node] |= mask_of_slot(cores)
        layer.total += len(cores)
        layer.move(node, layer.state(node) + len(cores) * self._core_step)

    def _find(self, request: Resources, policy: Policy, within: Collection[int] | None) -> Placement | None:
        own = self._share() if policy.oversubscribe else self._ordinary
        if policy.oversubscribe and not self._capacity.holds(request, wrapping=False, within=within):
            return self._wrap_around(request, own, within)
        chooser = placement_policy(policy.placement)
        for layer in self._layers_for(request, own):
            if within is None and not self._may_fit(request, layer):
                continue
            chosen = choose_nodes(chooser, request, FreeLayer(layer, within), len(self._shapes))
            if chosen is not None:
                return self._bind(request, chosen, own)
        return None

    def _layers_for(self, request: Resources, own: Layer) -> tuple[Layer, ...]:
        if self._both is None:
            return (own,)
        return (self._both,) if request.exclusive else (self._both, own)

    def _may_fit(self, request: Resources, layer: Layer) -> bool:
        ranks = request.ranks
        if ranks * request.cores_per_rank > layer.total or ranks * request.gpus_per_rank > self._free_gpus:
            return False
        return ranks == 1 or layer.has_room(request)

    def _bind(self, request: Resources, chosen: Sequence[tuple[int, int]], own: Layer) -> Placement:
        preferred = own if self._both is None else self._both
        slots: list[Slot] = []
        for node, ranks in chosen:
            free = FreeMasks(own.free[node], preferred.free[node], self._gpus[node])
            binding = bind(self._topologies[node], free, ranks, request.cores_per_rank, request.gpus_per_rank)
            self._take(request, node, binding, own)
            slots.extend([Slot(node, cores, gpus) for cores, gpus in binding.ranks])
        return self._placement(request, slots, own)

    def _wrap_around(self, request: Resources, own: Layer, within: Collection[int] | None) -> Placement | None:
        """Give the ranks to all nodes in turn, a node's worth of cores at a time, and wrap them around its cores."""
        room: dict[int, int] = {}
        for node in range(len(self._shapes)) if within is None else sorted(within):
            if node in self.lost:
                continue
            if ranks_on(self._shapes[node], request, wrapping=True):
                if own.free[node] != self._topologies[node].cores:
                    return None
                room[node] = self._room_around(node, request)
        if sum(room.values()) < request.ranks:
            return None
        slots: list[Slot] = []
        turns = {node: self._shapes[node].usable_cores // request.cores_per_rank for node in room}
        for node, ranks in _deal(request.ranks, room, turns).items():
            topology, gpus = self._topologies[node], self._gpus[node]
            binding = bind_around(topology, gpus, ranks, request.cores_per_rank, request.gpus_per_rank)
            self._take(request, node, binding, own)
            slots.extend([Slot(node, cores, gpus_of_rank) for cores, gpus_of_rank in binding.ranks])
        return self._placement(request, slots, own)

    def _room_around(self, node: int, request: Resources) -> int:
        """Return how many ranks a node could take now if cores were no limit."""
        if request.exclusive and self._both is not None and not self._both.is_idle(node):
            return 0
        room = request.ranks_per_node or request.ranks
        if request.gpus_per_rank:
            room = min(room, self._gpus[node].bit_count() // request.gpus_per_rank)
        return min(room, self._memory[node] // request.memory_bytes) if request.memory_bytes else room

    def _take(self, request: Resources, node: int, binding: Binding, own: Layer) -> None:
        if request.exclusive:
            self._set_whole(node, free=False)
        else:
            self._flip(node, own, binding.cores, binding.gpus, -len(binding.ranks) * request.memory_bytes)

    def _placement(self, request: Resources, slots: list[Slot], own: Layer) -> Placement:
        held = tuple(dict.fromkeys(slot.node for slot in slots)) if request.exclusive else ()
        placement = _Bound(tuple(slots), request.memory_bytes, held, shared=own is not self._ordinary)
        placement.held = True
        return placement

    def _flip(self, node: int, own: Layer, cores: int, gpus: int, memory: int) -> None:
        """Take what is free or free what is taken; `memory` is added to what is free."""
        if gpus:
            before = self._gpus[node]
            self._gpus[node] = before ^ gpus
            self._free_gpus += self._gpus[node].bit_count() - before.bit_count()
        if memory:
            self._memory[node] += memory
        own.set_free(node, own.free[node] ^ cores)
        if self._shared is not None and self._both is not None:
            other = self._ordinary if own is self._shared else self._shared
            other.set_free(node, other.free[node])  # its GPUs and memory changed
            self._both.set_free(node, own.free[node] & other.free[node])

    def _set_whole(self, node: int, *, free: bool) -> None:
        """Free an exclusively held node, or take all of an idle one."""
        topology = self._topologies[node]
        gpus = topology.gpus if free else 0
        self._free_gpus += gpus.bit_count() - self._gpus[node].bit_count()
        self._gpus[node] = gpus
        for layer in (self._ordinary, self._shared, self._both):
            if layer is not None:
                layer.set_free(node, topology.cores if free else 0)
        if free:
            self._nodes_held.remove(node)
        else:
            self._nodes_held.add(node)

    def _share(self) -> Layer:
        """Return the layer of oversubscribing tasks, built at the first call."""
        if self._shared is None:
            held = self._nodes_held | self.lost
            self._is_plain = False
            free = [0 if node in held else topology.cores for node, topology in enumerate(self._topologies)]
            self._both = self._layer(list(self._ordinary.free))
            self._shared = self._layer(free)
        return self._shared

    def _layer(self, free: list[int]) -> Layer:
        kinds = {shape: self._grid.kind_of(shape) for shape in set(self._shapes)}
        return Layer(self._grid, [kinds[shape] for shape in self._shapes], free, self._gpus, self._memory)


def _topologies(shapes: Sequence[NodeShape]) -> list[Topology]:
    known = {shape: Topology(shape) for shape in set(shapes)}
    return [known[shape] for shape in shapes]


def _deal(ranks: int, room: Mapping[int, int], turns: Mapping[int, int]) -> dict[int, int]:
    """Deal ranks to nodes, in each round at most `turns` to a node and never more than it has room for."""
    dealt = dict.fromkeys(room, 0)
    left = ranks
    while left:
        for node in room:
            given = min(turns[node], room[node] - dealt[node], left)
            dealt[node] += given
            left -= given
    return {node: given for node, given in dealt.items() if given}


def _by_node(slots: Sequence[Slot]) -> Iterator[tuple[int, int, int, int]]:
    """Yield node, ranks, cores and GPUs of each run of slots on the same node."""
    node, ranks, cores, gpus = slots[0].node, 0, 0, 0
    for slot in slots:
        if slot.node != node:
            yield node, ranks, cores, gpus
            node, ranks, cores, gpus = slot.node, 0, 0, 0
        ranks += 1
        cores |= mask_of_slot(slot.cores)
        gpus |= mask_of_slot(slot.gpus)
    yield node, ranks, cores, gpus
