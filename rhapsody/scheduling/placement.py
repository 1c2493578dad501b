"""The built-in placement policies. They see what users' own policies see, and no more."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from operator import index
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError, unknown_name
from rhapsody.model.resources import Resources

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    from rhapsody.abc import FreeNodes, PlacementPolicy

    Choice: TypeAlias = Sequence[tuple[int, int]]

DEFAULT_PLACEMENT = "pack"


class Pack:
    """Fewest nodes: the fullest one that holds all ranks, else those with the most room."""

    def choose(self, request: Resources, free: FreeNodes) -> list[tuple[int, int]] | None:
        """Return `(node, ranks)` pairs in node order, or None when the request does not fit now."""
        ranks = request.ranks
        if request.ranks_per_node is None or request.ranks_per_node >= ranks:
            for node in free.fullest_first(as_one_rank(request, ranks)):
                return [(node, ranks)]
        return self._choose_several(request, free) if ranks > 1 else None

    def _choose_several(self, request: Resources, free: FreeNodes) -> list[tuple[int, int]] | None:
        chosen: dict[int, int] = {}
        left = request.ranks
        for node in free.emptiest_first(request):
            room = free.ranks_that_fit(node, request)
            if room <= left:
                chosen[node] = room
                left -= room
            else:  # the rest goes to the fullest node that holds it: this one in the worst case
                fullest_first = free.fullest_first(as_one_rank(request, left))
                last = next((other for other in fullest_first if other not in chosen), node)
                chosen[last] = left
                left = 0
            if not left:
                return sorted(chosen.items())
        return None


class Spread:
    """Most nodes: one rank per node in turn, the emptiest first."""

    def choose(self, request: Resources, free: FreeNodes) -> list[tuple[int, int]] | None:
        """Return `(node, ranks)` pairs in node order, or None when the request does not fit now."""
        nodes = list(islice(free.emptiest_first(request), request.ranks))
        if len(nodes) == request.ranks:
            return [(node, 1) for node in sorted(nodes)]
        room = {node: free.ranks_that_fit(node, request) for node in nodes}
        left = request.ranks
        if sum(room.values()) < left:
            return None
        chosen = dict.fromkeys(nodes, 0)
        while left:
            nodes = [node for node in nodes if chosen[node] < room[node]][:left]
            left -= len(nodes)
            for node in nodes:
                chosen[node] += 1
        return sorted(chosen.items())


PLACEMENT_POLICIES: dict[str, PlacementPolicy] = {"pack": Pack(), "spread": Spread()}
"""What the names in `Policy.placement` stand for."""
_BUILT_IN = frozenset({Pack, Spread})


def placement_policy(placement: str | PlacementPolicy | None) -> PlacementPolicy:
    """Return what `Policy.placement` stands for: a built-in policy for a name or None, else the policy itself.

    Raises:
        SpecError: There is no policy of that name.
    """
    if placement is None:
        return PLACEMENT_POLICIES[DEFAULT_PLACEMENT]
    if not isinstance(placement, str):
        return placement
    if placement not in PLACEMENT_POLICIES:
        raise unknown_name("placement policy", placement, PLACEMENT_POLICIES)
    return PLACEMENT_POLICIES[placement]


@lru_cache(maxsize=4096)
def as_one_rank(request: Resources, ranks: int) -> Resources:
    """Return the request for one rank that needs what so many ranks of a request need: they share a node."""
    return Resources(
        cores_per_rank=ranks * request.cores_per_rank,
        gpus_per_rank=ranks * request.gpus_per_rank,
        memory_per_rank=ranks * request.memory_bytes,
        exclusive=request.exclusive,
    )


def choose_nodes(policy: PlacementPolicy, request: Resources, free: FreeNodes, node_count: int) -> Choice | None:
    """Return the `(node, ranks)` pairs that a policy chose, each node once, or None when it finds no room now.

    Raises:
        SpecError: A user's policy failed, or chose what cannot be.
    """
    if type(policy) in _BUILT_IN:
        return policy.choose(request, free)
    name = type(policy).__qualname__
    try:
        chosen = policy.choose(request, free)
        ranks_on = None if chosen is None else _collect(chosen)
    except Exception as exc:  # a user's code: whatever it raises is the answer to this request only
        raise SpecError(f"placement policy {name} failed on {request}: {type(exc).__name__}: {exc}") from exc
    if ranks_on is None:
        return None
    for node, ranks in ranks_on.items():
        wrong = _fault(node, ranks, request, free, node_count)
        if wrong:
            raise SpecError(f"placement policy {name} chose {ranks} ranks on node {node}: {wrong}")
    if sum(ranks_on.values()) != request.ranks:
        raise SpecError(
            f"placement policy {name} chose {sum(ranks_on.values())} ranks; the request has {request.ranks}"
        )
    return list(ranks_on.items())


def _collect(chosen: Choice) -> dict[int, int]:
    ranks_on: dict[int, int] = {}
    for node, ranks in chosen:
        number = index(node)  # whole numbers of other libraries are welcome
        ranks_on[number] = ranks_on.get(number, 0) + index(ranks)
    return ranks_on


def _fault(node: int, ranks: int, request: Resources, free: FreeNodes, node_count: int) -> str:
    if ranks < 1:
        return "it must be at least 1"
    if not 0 <= node < node_count:
        return f"the allocation has nodes 0 to {node_count - 1}"
    room = free.ranks_that_fit(node, request)
    return "" if ranks <= room else f"it can take {room} now"
