"""What a site offers: for each queue, kind of nodes and range of nodes, which jobs are taken; which are nearest."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rhapsody.deploy.sites.queues import Bin, Mismatch, Queue
from rhapsody.deploy.validation.accounts import Verdict, expected_kinds, verdict_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rhapsody.deploy.sites.nodes import NodeKind
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.validation.request import Request


@dataclass(frozen=True, slots=True)
class Offer:
    """Jobs that a site takes, as far as its profile knows.

    Attributes:
        queue: Where.
        kind: On which nodes; None when the profile knows none.
        bin: The range of nodes of the queue that it comes from.
        max_nodes: Most nodes, the number of GPUs and of nodes of this kind considered; infinite when unknown.
    """

    queue: Queue
    kind: NodeKind | None
    bin: Bin
    max_nodes: float

    @property
    def min_nodes(self) -> int:
        """Fewest nodes."""
        return self.bin.min_nodes

    @property
    def min_s(self) -> float:
        """Shortest walltime."""
        return self.queue.min_walltime.total_seconds()

    @property
    def max_s(self) -> float:
        """Longest walltime; infinite when unknown."""
        longest = self.bin.max_walltime
        return longest.total_seconds() if longest is not None else math.inf

    def takes_nodes(self, nodes: int) -> bool:
        """Return whether a number of nodes fits."""
        return self.min_nodes <= nodes <= self.max_nodes

    def takes_walltime(self, walltime_s: float | None) -> bool:
        """Return whether a walltime fits; none does."""
        return walltime_s is None or self.min_s <= walltime_s <= self.max_s

    def takes(self, request: Request) -> bool:
        """Return whether a job of this size fits."""
        return self.takes_nodes(request.nodes) and self.takes_walltime(request.walltime_s)


def offers_of(profile: SiteProfile, request: Request, queues: Iterable[Queue]) -> Iterator[Offer]:
    """Yield what queues offer for a request whose number of nodes and walltime may still change."""
    for queue in queues:
        if refused_chain(queue, request):
            continue
        for kind in _kinds(profile, request, queue):
            if refused_account(profile, request, queue, kind):
                continue
            for each in queue.ranges:
                most = _most_nodes(request, queue, kind, each)
                if most >= each.min_nodes:
                    yield Offer(queue, kind, each, most)


def refused_chain(queue: Queue, request: Request) -> bool:
    """Return whether a chain is asked for where the site prohibits them."""
    return request.links > 1 and not queue.chaining


def refused_account(profile: SiteProfile, request: Request, queue: Queue, kind: NodeKind | None) -> bool:
    """Return whether the account is known to pay for something else."""
    if profile.accounts is None or profile.accounts.mismatch is not Mismatch.REFUSE:
        return False
    return verdict_of(profile, request, expected_kinds(queue, kind)) is Verdict.WRONG


def _kinds(profile: SiteProfile, request: Request, queue: Queue) -> Iterator[NodeKind | None]:
    kinds = profile.kinds_of(queue)
    if not kinds:
        yield None
    for kind in kinds:
        if request.node_kind in {None, kind.name} and (request.gpus_per_node or 0) <= kind.gpu_count:
            yield kind


def _most_nodes(request: Request, queue: Queue, kind: NodeKind | None, each: Bin) -> float:
    limits: list[float] = [math.inf if each.max_nodes is None else each.max_nodes]
    if kind is not None and kind.count is not None:
        limits.append(kind.count)
    has_gpus = kind is None or kind.gpu_count > 0
    if queue.max_gpus is not None and has_gpus and request.gpus_per_node != 0:
        limits.append(queue.max_gpus // (request.gpus_per_node or 1))
    return min(limits)


def suggestions(profile: SiteProfile, request: Request, queues: Iterable[Queue]) -> tuple[Request, ...]:
    """Return the legal requests nearest to one that is not, at most four, each once.

    They are: as many nodes for less (or more) time, fewer nodes for as long, more nodes for as long; where none of
    these exists, what comes nearest when both change.
    """
    offers = list(offers_of(profile, request, queues))
    found = [*_same_nodes(request, offers), *_same_walltime(request, offers)]
    if not found:
        both = sorted((_clamped(request, offer) for offer in offers), key=lambda near: _distance(request, near))
        found = both[:2]
    return tuple(dict.fromkeys(found))


def _same_nodes(request: Request, offers: list[Offer]) -> list[Request]:
    """Return the request with the walltime that is nearest to what was asked for."""
    if request.walltime_s is None:
        return []
    found = [_clamped(request, offer) for offer in offers if offer.takes_nodes(request.nodes)]
    return sorted(found, key=lambda near: _distance(request, near))[:1]


def _same_walltime(request: Request, offers: list[Offer]) -> list[Request]:
    """Return the requests with the nearest smaller, equal and larger number of nodes."""
    found = [_clamped(request, offer) for offer in offers if offer.takes_walltime(request.walltime_s)]
    equal = [near for near in found if near.nodes == request.nodes]
    if equal:
        return equal[:2]
    smaller = [near for near in found if near.nodes < request.nodes]
    larger = [near for near in found if near.nodes > request.nodes]
    nearest = [
        max(smaller, key=lambda near: near.nodes, default=None),
        min(larger, key=lambda near: near.nodes, default=None),
    ]
    return [near for near in nearest if near is not None]


def _clamped(request: Request, offer: Offer) -> Request:
    """Return the request in the offer that is nearest to another."""
    nodes = int(min(max(request.nodes, offer.min_nodes), offer.max_nodes))
    walltime_s = request.walltime_s
    if walltime_s is not None:
        walltime_s = min(max(walltime_s, offer.min_s), offer.max_s)
    return replace(request, nodes=nodes, walltime_s=walltime_s, queue=offer.queue.name)


def _distance(request: Request, other: Request) -> float:
    """Return how far two requests are apart: by factors, since twice as long is as far as half as long."""
    apart = abs(math.log(other.nodes / request.nodes))
    if request.walltime_s is not None and other.walltime_s is not None:
        apart += abs(math.log(other.walltime_s / request.walltime_s))
    return apart
