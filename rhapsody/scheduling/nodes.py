"""What is free, indexed so that no question walks over all nodes.

The state of a node is its number of free cores, of free GPUs, and its kind. A `Grid` numbers the states; a `Layer` has
the nodes of each state in a bucket, and one big integer with a bit for each bucket that is not empty. To find a node is
then to find a bit, whatever the number of nodes.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rhapsody.model.allocation import NodeShape
    from rhapsody.model.resources import Resources

_MOST_REQUESTS = 4096
"""So many requests are remembered with what was worked out for them; then all are forgotten."""
_SPARE_ENTRIES = 64
"""A heap may hold so many entries more than four times what is needed before it is made anew."""


class Grid:
    """Numbers the states of nodes, fuller ones first: by free cores, then by free GPUs, then by kind.

    A kind is a number of usable cores and of GPUs that some node has when it is idle. A set of states is an integer,
    the bits of their numbers set.

    Attributes:
        core_step: What one core more adds to the number of a state.
        gpu_step: What one GPU more adds to it.
        size: How many states there are.
        idle: The states of nodes on which nothing runs.
    """

    def __init__(self, shapes: Iterable[NodeShape]) -> None:
        self._kinds = sorted({(shape.usable_cores, shape.gpus) for shape in shapes})
        self._most_cores = max(cores for cores, _ in self._kinds)
        self._most_gpus = max(gpus for _, gpus in self._kinds)
        self.gpu_step = len(self._kinds)
        self.core_step = self.gpu_step * (self._most_gpus + 1)
        self.size = self.core_step * (self._most_cores + 1)
        self.idle = 0
        for kind, (cores, gpus) in enumerate(self._kinds):
            self.idle |= 1 << (cores * self.core_step + gpus * self.gpu_step + kind)
        self._levels: dict[Resources, tuple[int, ...]] = {}

    def kind_of(self, shape: NodeShape) -> int:
        """Return the number of a shape's kind."""
        return self._kinds.index((shape.usable_cores, shape.gpus))

    def levels(self, request: Resources) -> tuple[int, ...]:
        """Return the sets of states that can take ranks of a request, the fewest ranks first, memory left aside.

        Without GPUs the order of the states is also that of the ranks, and one set is enough.
        """
        known = self._levels.get(request)
        if known is None:
            if len(self._levels) >= _MOST_REQUESTS:
                self._levels.clear()
            known = self._levels[request] = self._work_out_levels(request)
        return known

    def ranks_that_fit(self, state: int, request: Resources) -> int:
        """Return how many ranks of a request a state that is in one of its levels can take, memory left aside."""
        fit = state // self.core_step // request.cores_per_rank
        if request.gpus_per_rank:
            fit = min(fit, state % self.core_step // self.gpu_step // request.gpus_per_rank)
        if request.ranks_per_node is not None:
            fit = min(fit, request.ranks_per_node)
        return fit

    def _work_out_levels(self, request: Resources) -> tuple[int, ...]:
        enough = self._that_hold(request, 1)
        if not request.gpus_per_rank:
            return (enough,)
        levels = []
        most = min(self._most_cores // request.cores_per_rank, self._most_gpus // request.gpus_per_rank)
        most = min(most, request.ranks_per_node or most)
        for ranks in range(1, most + 1):
            more = self._that_hold(request, ranks + 1) if ranks < most else 0
            levels.append(enough & ~more)
            enough = more
        return tuple(levels)

    def _that_hold(self, request: Resources, ranks: int) -> int:
        cores, gpus = ranks * request.cores_per_rank, ranks * request.gpus_per_rank
        if cores > self._most_cores or gpus > self._most_gpus:
            return 0
        one_row = (1 << self.core_step) - (1 << gpus * self.gpu_step)
        rows = ((1 << self.size) - (1 << cores * self.core_step)) // ((1 << self.core_step) - 1)
        states = one_row * rows
        return states & self.idle if request.exclusive else states


class Layer:
    """The free cores of every node, and the nodes by their state.

    Every core can be held once per layer. GPUs and memory are the node's: all layers look at the same lists.

    Attributes:
        grid: Numbers the states.
        free: Free cores of each node, as a mask.
        gpus: Free GPUs of each node, as a mask.
        memory: Free bytes of each node.
        total: Free cores in all.
        occupied: The set of states that at least one node is in.
        buckets: The nodes of each state.
    """

    __slots__ = (
        "_heaps",
        "_kinds",
        "_spots",
        "_states",
        "buckets",
        "free",
        "gpus",
        "grid",
        "memory",
        "occupied",
        "total",
    )

    def __init__(self, grid: Grid, kinds: Sequence[int], free: list[int], gpus: list[int], memory: list[int]) -> None:
        self.grid = grid
        self.free = free
        self.gpus = gpus
        self.memory = memory
        self.total = 0
        self.occupied = 0
        self.buckets: list[list[int]] = [[] for _ in range(grid.size)]
        self._kinds = kinds
        self._states = [-1] * len(free)
        self._spots = [0] * len(free)
        self._heaps: dict[int, list[tuple[int, int]]] | None = None
        for node in reversed(range(len(free))):  # buckets are read from their end
            self._enter(node, self._state_of(node))
            self.total += free[node].bit_count()

    def set_free(self, node: int, cores: int) -> None:
        """Set the free cores of a node; its free GPUs and memory are looked up anew, too."""
        self.total += cores.bit_count() - self.free[node].bit_count()
        self.free[node] = cores
        self.move(node, self._state_of(node))

    def move(self, node: int, state: int) -> None:
        """Put a node into the bucket of another state."""
        old = self._states[node]
        if old != state:
            bucket = self.buckets[old]
            last = bucket.pop()
            if last != node:
                spot = self._spots[node]
                bucket[spot] = last
                self._spots[last] = spot
            elif not bucket:
                self.occupied ^= 1 << old
            self._enter(node, state)
        elif self._heaps is not None:
            self._note_memory(node, state)

    def is_idle(self, node: int) -> bool:
        """Return whether nothing runs on a node, as far as this layer knows."""
        return bool(self.grid.idle >> self._states[node] & 1)

    def state(self, node: int) -> int:
        """Return the number of a node's state."""
        return self._states[node]

    def fullest_first(self, levels: Sequence[int], memory: int) -> Iterator[int]:
        """Yield the nodes of some sets of states, set by set, with at least `memory` bytes, the lowest state first."""
        for level in levels:
            hits = self.occupied & level
            while hits:
                lowest = hits & -hits
                hits ^= lowest
                yield from self._bucket(lowest.bit_length() - 1, memory)

    def emptiest_first(self, levels: Sequence[int], memory: int) -> Iterator[int]:
        """Yield the same nodes, the last set and the highest state first."""
        for level in reversed(levels):
            hits = self.occupied & level
            while hits:
                state = hits.bit_length() - 1
                hits ^= 1 << state
                yield from self._bucket(state, memory)

    def has_room(self, request: Resources) -> bool:
        """Return whether all ranks of a request fit now, memory left aside; looks at states, not at nodes."""
        left = request.ranks
        for level in reversed(self.grid.levels(request)):
            hits = self.occupied & level
            while hits and left > 0:
                state = hits.bit_length() - 1
                hits ^= 1 << state
                left -= self.grid.ranks_that_fit(state, request) * len(self.buckets[state])
        return left <= 0

    def _state_of(self, node: int) -> int:
        grid = self.grid
        cores = self.free[node].bit_count() * grid.core_step
        return cores + self.gpus[node].bit_count() * grid.gpu_step + self._kinds[node]

    def _enter(self, node: int, state: int) -> None:
        bucket = self.buckets[state]
        if not bucket:
            self.occupied |= 1 << state
        self._states[node] = state
        self._spots[node] = len(bucket)
        bucket.append(node)
        if self._heaps is not None:
            self._note_memory(node, state)

    def _bucket(self, state: int, memory: int) -> Iterable[int]:
        return self._by_memory(state, memory) if memory else reversed(self.buckets[state])

    def _by_memory(self, state: int, least: int) -> Iterator[int]:
        """Yield the nodes of a bucket that have at least `least` bytes free, the most first.

        Walks down the heap without changing it, by a second heap of entries whose parents were seen.
        """
        heap = self._heap(state)
        frontier = [(heap[0], 0)]
        previous = None
        while frontier:
            entry, spot = heappop(frontier)
            if -entry[0] < least:
                return
            if entry != previous and self._is_current(entry, state):
                previous = entry
                yield entry[1]
            for child in range(2 * spot + 1, min(2 * spot + 3, len(heap))):
                heappush(frontier, (heap[child], child))

    def _heap(self, state: int) -> list[tuple[int, int]]:
        """Return the heap of a bucket that is not empty: `(-free bytes, node)`, outdated entries below the first."""
        if self._heaps is None:
            self._heaps = {}
        heap = self._heaps.get(state)
        if heap is None:
            heap = self._heaps[state] = [(-self.memory[node], node) for node in self.buckets[state]]
            heapify(heap)
        while not self._is_current(heap[0], state):  # never while a walk is under way: it began with this
            heappop(heap)
        return heap

    def _is_current(self, entry: tuple[int, int], state: int) -> bool:
        node = entry[1]
        return self._states[node] == state and self.memory[node] == -entry[0]

    def _note_memory(self, node: int, state: int) -> None:
        heaps = self._heaps
        if heaps is None or state not in heaps:
            return
        if len(heaps[state]) > 4 * len(self.buckets[state]) + _SPARE_ENTRIES:
            del heaps[state]
        else:
            heappush(heaps[state], (-self.memory[node], node))


class FreeLayer:
    """A layer as placement policies see it: keeps `rhapsody.abc.FreeNodes`.

    Fullest is the node with room for the fewest ranks of the request, and among equals the one with the fewest free
    cores; emptiest is the reverse. Memory decides whether a node is there at all, not where it stands.

    Args:
        layer: The layer.
        within: The only nodes to be seen; None for all.
    """

    def __init__(self, layer: Layer, within: Collection[int] | None) -> None:
        self._layer = layer
        self._within = within

    def ranks_that_fit(self, node: int, request: Resources) -> int:
        """Return how many ranks of the request a node could take now."""
        layer = self._layer
        if self._within is not None and node not in self._within:
            return 0
        if request.exclusive and not layer.is_idle(node):
            return 0
        fit = layer.grid.ranks_that_fit(layer.state(node), request)
        return min(fit, layer.memory[node] // request.memory_bytes) if request.memory_bytes else fit

    def fullest_first(self, request: Resources) -> Iterator[int]:
        """Yield nodes that can take at least one rank, those with the least room first."""
        if self._within is not None:
            return iter(self._sorted_within(request))
        return self._layer.fullest_first(self._layer.grid.levels(request), request.memory_bytes)

    def emptiest_first(self, request: Resources) -> Iterator[int]:
        """Yield nodes that can take at least one rank, those with the most room first."""
        if self._within is not None:
            return reversed(self._sorted_within(request))
        return self._layer.emptiest_first(self._layer.grid.levels(request), request.memory_bytes)

    def _sorted_within(self, request: Resources) -> list[int]:
        room = {node: self.ranks_that_fit(node, request) for node in self._within or ()}
        return sorted((node for node in room if room[node]), key=lambda node: (room[node], self._layer.state(node)))
