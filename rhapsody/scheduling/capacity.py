"""What an allocation could hold if all that is left of it were free, and the words for what it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pydantic import ByteSize

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from rhapsody.model.allocation import Allocation, NodeShape
    from rhapsody.model.resources import Resources


class _Group(NamedTuple):
    """Nodes of one shape; `name` is that of the first."""

    shape: NodeShape
    name: str
    size: int


_NAMED = 3
"""Of more nodes than this, only so many are named."""


class Capacity:
    """Answers whether a request could ever fit.

    Args:
        allocation: The nodes.

    Attributes:
        lost: Indices of the nodes that are gone.
        loss: What errors say of these; empty while there are none.
    """

    def __init__(self, allocation: Allocation) -> None:
        self._nodes = allocation.nodes
        self.lost: frozenset[int] = frozenset()
        self.loss = ""
        self._nodes_of: dict[NodeShape, list[int]] = {}
        for index, node in enumerate(allocation.nodes):
            self._nodes_of.setdefault(node.shape, []).append(index)
        self._groups = self._grouped()

    def _grouped(self) -> list[_Group]:
        left = ((shape, [node for node in nodes if node not in self.lost]) for shape, nodes in self._nodes_of.items())
        return [_Group(shape, self._nodes[nodes[0]].name, len(nodes)) for shape, nodes in left if nodes]

    def withdraw(self, nodes: Collection[int]) -> None:
        """Count on some nodes no more."""
        self.lost = self.lost.union(nodes)
        self.loss = f"; {self.names_lost(sorted(self.lost))}"
        self._groups = self._grouped()

    def names_lost(self, nodes: Sequence[int]) -> str:
        """Return the words that some nodes are lost, with their names; at least one node."""
        names = [self._nodes[node].name for node in nodes[:_NAMED]]
        if len(nodes) > _NAMED:
            names.append(f"{len(nodes) - _NAMED} more")
        listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
        return f"{listed} {'is' if len(nodes) == 1 else 'are'} lost"

    def refusal(self, request: Resources, *, wrapping: bool) -> str | None:
        """Return why a request can never fit, or None if it can.

        Args:
            request: What is asked for.
            wrapping: Whether ranks may share cores with each other, so that only one rank's cores must fit a node.
        """
        if not self._groups:
            return f"asked for {request}; no node is left"
        per_rank = _too_few_cores, _too_few_gpus, _too_little_memory
        for reason in per_rank:
            text = reason(request, self._groups)
            if text:
                return text
        if not any(ranks_on(group.shape, request, wrapping=wrapping) for group in self._groups):
            return f"asked for {request}; nodes have enough of each, but no node of all together{_ADVICE}"
        return self._too_few_in_all(request, wrapping=wrapping)

    def holds(self, request: Resources, *, wrapping: bool, within: Iterable[int] | None = None) -> bool:
        """Return whether all ranks would fit if all that is left, of the nodes `within` if given, were free."""
        if within is None:
            room = sum(group.size * ranks_on(group.shape, request, wrapping=wrapping) for group in self._groups)
        else:
            left = (self._nodes[node].shape for node in within if node not in self.lost)
            room = sum(ranks_on(shape, request, wrapping=wrapping) for shape in left)
        return room >= request.ranks

    def _too_few_in_all(self, request: Resources, *, wrapping: bool) -> str | None:
        if self.holds(request, wrapping=wrapping):
            return None
        room = [(group.size, ranks_on(group.shape, request, wrapping=wrapping)) for group in self._groups]
        held = sum(size * ranks for size, ranks in room)
        nodes = sum(size for size, _ in room)
        most = max(ranks for _, ranks in room)
        text = f"asked for {request}; {nodes} {'node holds' if nodes == 1 else 'nodes hold'} {held} of them"
        if request.ranks_per_node == most:
            return f"{text}, with ranks_per_node={most}; raise ranks_per_node, ask for fewer ranks, or for more nodes"
        return f"{text}, at most {most} on one node; ask for fewer ranks, for less per rank, or for more nodes"


def ranks_on(shape: NodeShape, request: Resources, *, wrapping: bool) -> int:
    """Return how many ranks of a request a node holds when nothing else runs on it."""
    fit = shape.usable_cores // request.cores_per_rank
    if wrapping and fit:
        fit = request.ranks
    if request.gpus_per_rank:
        fit = min(fit, shape.gpus // request.gpus_per_rank)
    if request.memory_bytes:
        fit = min(fit, shape.memory_bytes // request.memory_bytes)
    return fit if request.ranks_per_node is None else min(fit, request.ranks_per_node)


_ADVICE = "; ask for less per rank, or use larger nodes"


def _largest(groups: list[_Group], measure: Callable[[NodeShape], int]) -> _Group:
    return max(groups, key=lambda group: measure(group.shape))


def _too_few_cores(request: Resources, groups: list[_Group]) -> str | None:
    shape, name, _ = _largest(groups, lambda shape: shape.usable_cores)
    if request.cores_per_rank <= shape.usable_cores:
        return None
    reserved = shape.cores - shape.usable_cores
    detail = f" (node {name!r}, {shape.cores} cores, {reserved} reserved)" if reserved else f" (node {name!r})"
    found = f"{shape.usable_cores} usable {'core' if shape.usable_cores == 1 else 'cores'}{detail}"
    return f"asked for {request.cores_per_rank} cores per rank; the largest node has {found}{_ADVICE}"


def _too_few_gpus(request: Resources, groups: list[_Group]) -> str | None:
    shape, name, _ = _largest(groups, lambda shape: shape.gpus)
    if request.gpus_per_rank <= shape.gpus:
        return None
    found = f"the most on one node is {shape.gpus} (node {name!r})" if shape.gpus else "no node has any"
    asked = f"{request.gpus_per_rank} {'GPU' if request.gpus_per_rank == 1 else 'GPUs'} per rank"
    return f"asked for {asked}; {found}{_ADVICE}"


def _too_little_memory(request: Resources, groups: list[_Group]) -> str | None:
    shape, name, _ = _largest(groups, lambda shape: shape.memory_bytes)
    if request.memory_bytes <= shape.memory_bytes:
        return None
    asked = f"asked for {_size(request.memory_bytes)} of memory per rank"
    if not shape.memory_bytes:
        return f"{asked}; the memory of no node is known: leave memory_per_rank out, or declare NodeShape.memory_bytes"
    return f"{asked}; the largest node has {_size(shape.memory_bytes)} (node {name!r}){_ADVICE}"


def _size(count: int) -> str:
    return ByteSize(count).human_readable()
