"""Which cores and GPUs of one node each rank gets. Masks throughout: bit i stands for core or GPU i."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rhapsody.model.allocation import NodeShape

_REMEMBERED = 1 << 12
"""So many bindings are remembered; the largest take a few KiB each."""
_MASKS_REMEMBERED = 1 << 15


class Topology:
    """Where the cores and GPUs of a node shape lie.

    Attributes:
        cores: The cores that can be given to tasks.
        gpus: The GPUs.
        domains: The cores of each NUMA domain; cores that are in none form one of their own.
        near: For each GPU, the cores near it; nothing where that is unknown.
        local: For each GPU, the cores of the domains that its near cores lie in.
        next_core: For a mask of free cores, the one that a rank of one core gets: as a mask, and its id in a tuple.
    """

    __slots__ = ("cores", "domains", "gpus", "local", "near", "next_core")

    def __init__(self, shape: NodeShape) -> None:
        self.cores = ((1 << shape.cores) - 1) & ~mask_of(shape.reserved_cores)
        self.gpus = (1 << shape.gpus) - 1
        domains = [mask_of(domain) & self.cores for domain in shape.numa]
        rest = self.cores
        for domain in domains:
            rest &= ~domain
        self.domains = tuple(domain for domain in [*domains, rest] if domain)
        self.near = tuple(mask_of(cores) & self.cores for cores in shape.gpu_cores) or (0,) * shape.gpus
        self.local = tuple(_union(domain for domain in self.domains if domain & near) for near in self.near)
        self.next_core = _NextCore(self)

    def cores_from(self, free: int, count: int) -> int:
        """Return free cores: the lowest of the smallest free domain that holds them, or across domains if none does."""
        parts = (free & domain for domain in self.domains)
        large_enough = [part for part in parts if part.bit_count() >= count]
        return lowest(min(large_enough, key=int.bit_count), count) if large_enough else lowest(free, count)

    def gpus_from(self, free: int, free_cores: int, count: int, cores: int) -> list[int]:
        """Return ids of free GPUs for a rank of so many cores: those with enough free cores near them, then by id."""
        share = -(-cores // count)
        ids = sorted(bits_of(free), key=lambda gpu: -min((self.near[gpu] & free_cores).bit_count(), share))
        return sorted(ids[:count])

    def cores_near(self, gpus: Iterable[int], free: int, count: int) -> int:
        """Return free cores near some GPUs; then those of the same domains, then any."""
        chosen = 0
        gpus = tuple(gpus)
        for preferred in (self.near, self.local):
            candidates = _union(preferred[gpu] for gpu in gpus) & free & ~chosen
            chosen |= lowest(candidates, min(count - chosen.bit_count(), candidates.bit_count()))
        missing = count - chosen.bit_count()
        return chosen | self.cores_from(free & ~chosen, missing) if missing else chosen


class _NextCore(dict[int, tuple[int, tuple[int]]]):
    """Filled as it is asked, since the same few masks come again and again."""

    def __init__(self, topology: Topology) -> None:
        super().__init__()
        self._topology = topology
        self._answers = {1 << core: (1 << core, (core,)) for core in bits_of(topology.cores)}

    def __missing__(self, free: int) -> tuple[int, tuple[int]]:
        if len(self) >= _MASKS_REMEMBERED:
            self.clear()
        answer = self[free] = self._answers[self._topology.cores_from(free, 1)]
        return answer


class Binding(NamedTuple):
    """What the ranks on one node got.

    Attributes:
        ranks: Core ids and GPU ids of each rank.
        cores: All cores, as a mask.
        gpus: All GPUs, as a mask.
    """

    ranks: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    cores: int
    gpus: int


class FreeMasks(NamedTuple):
    """What is free on one node.

    Attributes:
        cores: Cores that can be given.
        best: Those of them that a rank gets if there are enough of them.
        gpus: GPUs.
    """

    cores: int
    best: int
    gpus: int


@lru_cache(maxsize=_REMEMBERED)
def bind(topology: Topology, free: FreeMasks, ranks: int, cores_per_rank: int, gpus_per_rank: int) -> Binding:
    """Bind ranks to cores and GPUs of a node on which they are known to fit."""
    free_cores, best, free_gpus = free
    bound = []
    for _ in range(ranks):
        pool = best if best.bit_count() >= cores_per_rank else free_cores
        gpus: list[int] = []
        if gpus_per_rank:
            gpus = topology.gpus_from(free_gpus, pool, gpus_per_rank, cores_per_rank)
            free_gpus &= ~mask_of(gpus)
            cores = topology.cores_near(gpus, pool, cores_per_rank)
        else:
            cores = topology.cores_from(pool, cores_per_rank)
        free_cores &= ~cores
        best &= ~cores
        bound.append((tuple(bits_of(cores)), tuple(gpus)))
    return Binding(tuple(bound), free.cores ^ free_cores, free.gpus ^ free_gpus)


@lru_cache(maxsize=_REMEMBERED)
def bind_around(topology: Topology, gpus: int, ranks: int, cores_per_rank: int, gpus_per_rank: int) -> Binding:
    """Bind ranks to the cores of a node in turn, beginning anew when all were given; each GPU is given once."""
    ids = bits_of(topology.cores)
    free_gpus = bits_of(gpus)
    bound = []
    for rank in range(ranks):
        first = rank * cores_per_rank
        cores = sorted(ids[core % len(ids)] for core in range(first, first + cores_per_rank))
        bound.append((tuple(cores), tuple(free_gpus[rank * gpus_per_rank : (rank + 1) * gpus_per_rank])))
    taken_cores = _union(mask_of(cores) for cores, _ in bound)
    return Binding(tuple(bound), taken_cores, _union(mask_of(given) for _, given in bound))


@lru_cache(maxsize=_MASKS_REMEMBERED)
def mask_of_slot(ids: tuple[int, ...]) -> int:
    """Return the mask of a slot's ids; the same few come again and again."""
    return mask_of(ids)


def mask_of(ids: Iterable[int]) -> int:
    """Return the mask with these bits set."""
    mask = 0
    for number in ids:
        mask |= 1 << number
    return mask


def bits_of(mask: int) -> list[int]:
    """Return the numbers of the bits set, ascending."""
    bits = []
    while mask:
        low = mask & -mask
        bits.append(low.bit_length() - 1)
        mask ^= low
    return bits


def lowest(mask: int, count: int) -> int:
    """Return the lowest `count` bits of a mask that has at least as many."""
    rest = mask
    for _ in range(count):
        rest &= rest - 1
    return mask ^ rest


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union
