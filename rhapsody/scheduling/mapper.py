"""Binds the ranks of requests to cores and GPUs of the allocation's nodes.

Cores come in two layers. A core can be held by one ordinary task, and besides by one task whose policy says
`oversubscribe`. The second layer is built when the first such task comes; until then nobody pays for it. From then on
both kinds prefer cores that are free in both layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Placement, Slot
from rhapsody.scheduling.binding import Binding, FreeMasks, Topology, bind, bind_around, mask_of_tuple
from rhapsody.scheduling.capacity import Capacity, ranks_on
from rhapsody.scheduling.nodes import FreeLayer, Grid, Layer
from rhapsody.scheduling.placement import DEFAULT_PLACEMENT, placement_policy

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from rhapsody.abc import PlacementPolicy
    from rhapsody.model.allocation import Allocation, NodeShape
    from rhapsody.model.policy import Policy
    from rhapsody.model.resources import Resources

_MOST_CHECKED = 4096
"""The verdicts on so many requests are remembered; then all are forgotten."""


class Mapper:
    """Knows what is free, places requests and releases placements. No call walks over all nodes for one task.

    Args:
        allocation: The nodes; all of them are free at first.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        self._capacity = Capacity(allocation)
        self._verdicts: dict[tuple[Resources, bool], str | None] = {}
        known: dict[NodeShape, Topology] = {}
        shapes = [node.shape for node in allocation.nodes]
        self._topologies = [known.get(shape) or known.setdefault(shape, Topology(shape)) for shape in shapes]
        grid = Grid(known)
        kinds = {shape: grid.kind_of(shape) for shape in known}
        self._kinds = [kinds[shape] for shape in shapes]
        self._gpus = [topology.gpus for topology in self._topologies]
        self._memory = [shape.memory_bytes for shape in shapes]
        self._ordinary = Layer(grid, self._kinds, [t.cores for t in self._topologies], self._gpus, self._memory)
        self._shared: Layer | None = None
        self._both: Layer | None = None
        self._free_gpus = allocation.gpus
        self._one_core = grid.levels(SERIAL)[0]
        self._core_step = grid.core_step
        self._held: set[int] = set()

    @property
    def free_cores(self) -> int:
        """Cores that no ordinary and no exclusive task holds."""
        return self._ordinary.total

    @property
    def free_gpus(self) -> int:
        """GPUs that no task holds."""
        return self._free_gpus

    def check(self, request: Resources, policy: Policy) -> None:
        """Refuse a request that could not be placed even if all nodes were free.

        A user's placement policy is taken to be able to place what fits.

        Raises:
            SpecError: It can never fit, or its placement policy has an unknown name.
        """
        key = (request, policy.oversubscribe)
        if key not in self._verdicts:
            if len(self._verdicts) >= _MOST_CHECKED:
                self._verdicts.clear()
            self._verdicts[key] = self._capacity.refusal(request, wrapping=policy.oversubscribe)
        refusal = self._verdicts[key]
        if refusal is not None:
            raise SpecError(refusal)
        placement_policy(policy.placement)

    def place(self, request: Resources, policy: Policy, within: Collection[int] | None = None) -> Placement | None:
        """Bind the ranks of a request to free cores and GPUs, or return None when it does not fit now.

        One slot per rank, in rank order; the ranks of one node follow each other. What is bound stays so until
        `release`. An oversubscribing request with more ranks than all cores of the allocation can take wraps around:
        it waits until the second layer is all free, and its ranks share cores; placement policies are not asked.

        Args:
            request: One that `check` accepted.
            policy: `placement` and `oversubscribe` are followed.
            within: Indices of the only nodes that may be used; the time taken grows with them.

        Raises:
            SpecError: It could never fit `within`, or a user's placement policy failed or chose wrongly.
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
        if within is not None:
            self._require_capacity(request, policy, within)
        found = self._find(request, policy, within)
        if found is not None:
            self._held.add(id(found))
        return found

    def release(self, placement: Placement) -> None:
        """Free what `place` bound.

        Raises:
            RuntimeError: It is not held: it was released before, or comes from elsewhere.
        """
        try:
            self._held.remove(id(placement))
        except KeyError:
            raise RuntimeError(f"{placement} is not held; it was released before, or another mapper made it") from None
        slots = placement.slots
        if placement.nodes_held:
            for node in placement.nodes_held:
                self._set_whole(node, free=True)
        elif len(slots) == 1 and self._shared is None and not slots[0].gpus and not placement.memory_bytes:
            self._release_cores(slots[0])
        else:
            layer = self._shared if placement.shared and self._shared else self._ordinary
            for node, binding in _by_node(slots):
                self._flip(node, binding, layer, len(binding.ranks) * placement.memory_bytes)

    def _place_one_core(self) -> Placement | None:
        """Place one core on the fullest node: what `_find` would do, for the request that comes a million times."""
        layer = self._ordinary
        hits = layer.occupied & self._one_core
        if not hits:
            return None
        state = (hits & -hits).bit_length() - 1
        node = layer.buckets[state][-1]
        free = layer.free[node]
        core = self._topologies[node].core_from(free)
        layer.free[node] = free ^ core
        layer.total -= 1
        layer.move(node, state - self._core_step)
        placement = Placement((Slot(node, (core.bit_length() - 1,)),))
        self._held.add(id(placement))
        return placement

    def _release_cores(self, slot: Slot) -> None:
        layer = self._ordinary
        node, cores, _ = slot
        layer.free[node] |= mask_of_tuple(cores)
        layer.total += len(cores)
        layer.move(node, layer.state(node) + len(cores) * self._core_step)

    def _find(self, request: Resources, policy: Policy, within: Collection[int] | None) -> Placement | None:
        own = self._share() if policy.oversubscribe else self._ordinary
        if policy.oversubscribe and not self._capacity.holds(request, wrapping=False, within=within):
            return self._wrap_around(request, own, within)
        chooser = placement_policy(policy.placement)
        for layer in (own,) if self._both is None else (self._both, own):
            if within is None and not self._may_fit(request, layer):
                continue
            chosen = _choose(chooser, request, layer, within, self._allocation)
            if chosen is not None:
                return self._bind(request, chosen, own)
        return None

    def _may_fit(self, request: Resources, layer: Layer) -> bool:
        if request.ranks * request.cores_per_rank > layer.total or request.ranks * request.gpus_per_rank > self._free_gpus:
            return False
        return request.ranks == 1 or layer.has_room(request)

    def _bind(self, request: Resources, chosen: Sequence[tuple[int, int]], own: Layer) -> Placement:
        slots: list[Slot] = []
        for node, ranks in chosen:
            best = (self._both or own).free[node]
            free = FreeMasks(own.free[node], best, self._gpus[node])
            binding = bind(self._topologies[node], free, ranks, request.cores_per_rank, request.gpus_per_rank)
            self._take(request, node, binding, own, slots)
        return self._placement(request, slots, own)

    def _wrap_around(self, request: Resources, own: Layer, within: Collection[int] | None) -> Placement | None:
        """Give the ranks to all nodes in turn, a node's worth of cores at a time, and wrap them around its cores."""
        room: dict[int, int] = {}
        for node in range(len(self._topologies)) if within is None else sorted(within):
            if ranks_on(self._allocation.nodes[node].shape, request, wrapping=True):
                if own.free[node] != self._topologies[node].cores:
                    return None
                room[node] = self._ranks_around(node, request)
        if sum(room.values()) < request.ranks:
            return None
        slots: list[Slot] = []
        for node, ranks in _deal(request, room, self._topologies).items():
            gpus = self._gpus[node]
            binding = bind_around(self._topologies[node], gpus, ranks, request.cores_per_rank, request.gpus_per_rank)
            self._take(request, node, binding, own, slots)
        return self._placement(request, slots, own)

    def _ranks_around(self, node: int, request: Resources) -> int:
        """Return how many ranks a node could take now if cores were no limit."""
        if request.exclusive and not (self._both or self._ordinary).is_idle(node):
            return 0
        room = request.ranks_per_node or request.ranks
        if request.gpus_per_rank:
            room = min(room, self._gpus[node].bit_count() // request.gpus_per_rank)
        return min(room, self._memory[node] // request.memory_bytes) if request.memory_bytes else room

    def _take(self, request: Resources, node: int, binding: Binding, own: Layer, slots: list[Slot]) -> None:
        slots.extend([Slot(node, cores, gpus) for cores, gpus in binding.ranks])
        if request.exclusive:
            self._set_whole(node, free=False)
        else:
            self._flip(node, binding, own, -len(binding.ranks) * request.memory_bytes)

    def _placement(self, request: Resources, slots: list[Slot], own: Layer) -> Placement:
        held = tuple(dict.fromkeys(slot.node for slot in slots)) if request.exclusive else ()
        return Placement(tuple(slots), request.memory_bytes, held, shared=own is not self._ordinary)

    def _flip(self, node: int, binding: Binding, own: Layer, memory: int) -> None:
        """Take what is free or free what is taken; the sign of `memory` says which of the two."""
        gpus = self._gpus[node]
        self._gpus[node] = gpus ^ binding.gpus
        self._free_gpus += self._gpus[node].bit_count() - gpus.bit_count()
        self._memory[node] += memory
        own.set_free(node, own.free[node] ^ binding.cores)
        if self._shared is not None and self._both is not None:
            other = self._ordinary if own is self._shared else self._shared
            other.set_free(node, other.free[node])
            self._both.set_free(node, own.free[node] & other.free[node])

    def _set_whole(self, node: int, *, free: bool) -> None:
        topology = self._topologies[node]
        gpus = topology.gpus if free else 0
        self._free_gpus += gpus.bit_count() - self._gpus[node].bit_count()
        self._gpus[node] = gpus
        self._memory[node] = self._allocation.nodes[node].shape.memory_bytes if free else 0
        for layer in (self._ordinary, self._shared, self._both):
            if layer is not None:
                layer.set_free(node, topology.cores if free else 0)

    def _share(self) -> Layer:
        """Return the layer of oversubscribing tasks, built at the first call."""
        if self._shared is None:
            free = self._ordinary.free
            nodes_held = [node for node, mask in enumerate(free) if not mask]
        return self._shared
