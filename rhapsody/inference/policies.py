"""Which replica gets the next request, of those that have room for it.

`RoutingPolicy` stands here, since no layer below routes requests; it needs nothing but types, so it can move to
`rhapsody.abc`.
"""

from __future__ import annotations

import random
from abc import abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rhapsody.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rhapsody.inference.ledger import Load
    from rhapsody.inference.replica import Replica
    from rhapsody.inference.request import Request


class Candidate(NamedTuple):
    """A replica that is ready and has room.

    Attributes:
        replica: Whose `uid` and `weight` a policy may read.
        load: What it has in flight.
    """

    replica: Replica
    load: Load


class RoutingPolicy(Protocol):
    """Picks one of the replicas that a request could go to now."""

    @abstractmethod
    def choose(self, request: Request, candidates: Sequence[Candidate]) -> Candidate:
        """Return one of the candidates; there is at least one. Called on the event loop, for one request at a time."""


class RandomChoice:
    """Any of them, those with more weight more often."""

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 - spreads work, keeps no secret

    def choose(self, request: Request, candidates: Sequence[Candidate]) -> Candidate:  # noqa: ARG002 - a contract
        """Return any."""
        return self._random.choices(candidates, [each.replica.weight for each in candidates])[0]


class RoundRobin:
    """One after the other; one with weight 2 gets two turns for each of the others', not in a row.

    Source: "smooth weighted round-robin" of nginx.
    """

    def __init__(self) -> None:
        self._credit: dict[str, float] = {}

    def choose(self, request: Request, candidates: Sequence[Candidate]) -> Candidate:  # noqa: ARG002 - a contract
        """Return the one whose turn it is."""
        credit = self._credit
        for replica, _ in candidates:
            credit[replica.uid] = credit.get(replica.uid, 0.0) + replica.weight
        chosen = max(candidates, key=lambda each: credit[each.replica.uid])
        credit[chosen.replica.uid] -= sum(each.replica.weight for each in candidates)
        return chosen


class LeastTokens:
    """The one with the fewest tokens in flight, prompts and expected answers, for its weight; equal ones take turns."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._count = 0

    def choose(self, request: Request, candidates: Sequence[Candidate]) -> Candidate:  # noqa: ARG002 - a contract
        """Return the least busy one; of several, the one that was not chosen for the longest time."""
        last = self._last

        def busy(each: Candidate) -> tuple[float, int]:
            return each.load.tokens / each.replica.weight, last.get(each.replica.uid, 0)

        chosen = min(candidates, key=busy)
        self._count += 1
        last[chosen.replica.uid] = self._count
        return chosen


POLICIES: Mapping[str, Callable[[], RoutingPolicy]] = {
    "least_tokens": LeastTokens,
    "random": RandomChoice,
    "round_robin": RoundRobin,
}
"""By the names that users write."""


def routing_policy(policy: str | RoutingPolicy) -> RoutingPolicy:
    """Return a policy of a name, fresh; one of the user's own as it is.

    Raises:
        SpecError: No policy has that name.
    """
    if not isinstance(policy, str):
        return policy
    if policy not in POLICIES:
        raise unknown_name("routing policy", policy, POLICIES)
    return POLICIES[policy]()
