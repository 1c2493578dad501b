"""How services and their replicas are, and who keeps them: what all parts of this layer share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.services.probes import Probe


class ServiceState(StrEnum):
    """How a service is."""

    NEW = "NEW"
    STARTING = "STARTING"
    """None of its replicas is ready yet, or any more."""
    READY = "READY"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    DONE = "DONE"
    """All its replicas ended well, as those of a service that ends do."""
    FAILED = "FAILED"
    """Its last replica was given up."""

    @property
    def is_over(self) -> bool:
        """Whether nothing of it will run again."""
        return self in {ServiceState.STOPPED, ServiceState.DONE, ServiceState.FAILED}


class ReplicaState(StrEnum):
    """How a replica is."""

    WAITING = "WAITING"
    """For slots."""
    STARTING = "STARTING"
    READY = "READY"
    DRAINING = "DRAINING"
    """It gets nothing more, and ends what it has."""
    BACKING_OFF = "BACKING_OFF"
    """It ended, and is started again after a while."""
    STOPPED = "STOPPED"
    DONE = "DONE"
    """It ended well, as it was to."""
    FAILED = "FAILED"
    """It was given up."""


class Address(NamedTuple):
    """Where one ready replica is.

    Attributes:
        uid: Of the replica's start: `NAME.REPLICA.START`.
        node: Name of the node in the allocation.
        host: As the session's node reaches it.
        port: Where it listens.
        url: Of it.
    """

    uid: str
    node: str
    host: str
    port: int
    url: str


class ReplicaView(NamedTuple):
    """How one replica is now.

    Attributes:
        number: From 0.
        state: How it is.
        address: Where; None unless it is ready or drains.
        restarts: How often it was started again.
        reason: Why it is in its state; empty if all is well.
    """

    number: int
    state: ReplicaState
    address: Address | None
    restarts: int
    reason: str


@dataclass(frozen=True, slots=True)
class Health:
    """When a replica is ready, and when it no longer is.

    Attributes:
        ready: What is asked until it is ready.
        ready_within_s: A start that is not ready after so many seconds has failed; from its first process on.
        poll_s: Seconds between two questions until then.
        well: What is asked while it is ready; None asks nothing.
        every_s: Seconds between two questions.
        timeout_s: Longest that an answer may take then.
        ready_timeout_s: Longest that it may take before; a first request may be slow.
        failures: Bad answers in a row after which the replica is ended, and started again.
    """

    ready: Probe
    ready_within_s: float = 300.0
    poll_s: float = 0.5
    well: Probe | None = None
    every_s: float = 10.0
    timeout_s: float = 10.0
    ready_timeout_s: float = 60.0
    failures: int = 3


class Supervision(Protocol):
    """Who keeps a service that was started."""

    @property
    def state(self) -> ServiceState:
        """How the service is."""

    @property
    def reason(self) -> str:
        """Why, where it is not well."""

    @property
    def replicas(self) -> Sequence[ReplicaView]:
        """How its replicas are, in their order; none that was scaled away."""

    @property
    def url(self) -> str:
        """What clients take; empty before the service was ready."""

    @property
    def state_dir(self) -> Path:
        """Folder of what its replicas keep."""

    async def ready(self, replicas: int | None, timeout_s: float | None) -> None:
        """Return when so many are ready; see `ServiceTask.ready`."""

    async def done(self, timeout_s: float | None) -> None:
        """Return when it has ended well; see `ServiceTask.done`."""

    async def scale(self, replicas: int) -> None:
        """Have so many replicas; see `ServiceTask.scale`."""

    async def stop(self) -> None:
        """End the service; see `ServiceTask.stop`."""
