"""What is asked of a site, and what a job becomes once the site's rules are applied."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from rhapsody.deploy.sites.nodes import NodeKind
    from rhapsody.deploy.sites.profile import SiteProfile
    from rhapsody.deploy.sites.queues import Bin, Queue


@dataclass(frozen=True, slots=True)
class Request:
    """A job as a user asks for it.

    Attributes:
        nodes: How many.
        walltime_s: Longest the job may take, in whole seconds; None for what the queue gives a job that names none.
        account: Whom it is charged to.
        queue: As the profile names it; None lets one be chosen.
        node_kind: As the profile names it; None lets one be chosen.
        account_kind: What the account pays for, where its name does not tell: `cpu`, `gpu`.
        links: Jobs that follow each other, this one included.
        gpus_per_node: None for all that a node has.

    Raises:
        SpecError: A number makes no sense.
    """

    nodes: int = 1
    walltime_s: float | None = None
    account: str | None = None
    queue: str | None = None
    node_kind: str | None = None
    account_kind: str | None = None
    links: int = 1
    gpus_per_node: int | None = None

    def __post_init__(self) -> None:
        for name, value, least in (("nodes", self.nodes, 1), ("links", self.links, 1)):
            if type(value) is not int or value < least:
                raise SpecError(f"{name}={value!r} must be a whole number, at least {least}")
        if self.gpus_per_node is not None and (type(self.gpus_per_node) is not int or self.gpus_per_node < 0):
            raise SpecError(f"gpus_per_node={self.gpus_per_node!r} must be a whole number, at least 0")
        if self.walltime_s is not None and not (math.isfinite(self.walltime_s) and self.walltime_s >= 1):
            raise SpecError(f"walltime_s={self.walltime_s!r} must be at least one second")


@dataclass(frozen=True, slots=True)
class Resolved:
    """A request that the site's rules allow, with what they add to it.

    Attributes:
        profile: Of the site.
        request: As it was asked for.
        queue: None where the site has no queues, or its profile does not know the one that was named.
        queue_name: What the job asks for: the user's word where `queue` is None; None to ask for no queue.
        bin: The range of nodes it falls in; for a routing queue the queue behind.
        kind: The kind of nodes; None when the profile knows none.
        gpus_per_node: 0 for none; None when unknown.
        walltime_s: None where neither the user nor the site names one.
        node_hours: Of all links; None without a walltime.
        charge: In the site's unit, at most; None without a walltime.
        unit: The site's unit; `node-hours` where the profile does not know it.
        warnings: What the user should be told, in whole sentences.
    """

    profile: SiteProfile
    request: Request
    queue: Queue | None
    queue_name: str | None
    bin: Bin | None
    kind: NodeKind | None
    gpus_per_node: int | None
    walltime_s: float | None
    node_hours: float | None
    charge: float | None
    unit: str
    warnings: tuple[str, ...]
