"""What services stand on: the session's scheduler and run folder, and where requests to a service go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from rhapsody.model.event import State
    from rhapsody.model.outcome import Failure
    from rhapsody.model.service import Gate, ReplicaTask
    from rhapsody.services.states import Address


class Ground(Protocol):
    """What the session gives those who keep its services."""

    @property
    def run_dir(self) -> Path:
        """The run folder; all nodes see it."""

    @property
    def logs(self) -> Path:
        """Folder for whole outputs."""

    @property
    def session_at(self) -> Sequence[str]:
        """Addresses of the session's node, the best first; empty where all is on that node."""

    @property
    def node_name(self) -> str:
        """Name of the session's node."""

    async def submit(self, tasks: Sequence[ReplicaTask]) -> None:
        """Accept replicas as tasks; see `rhapsody.scheduling.scheduler.Scheduler.submit`."""

    def cancel(self, tasks: Iterable[ReplicaTask]) -> None:
        """End replicas; each is final once no process of it is left."""

    def turn(self, gate: Gate, state: State, failure: Failure | None = None) -> None:
        """Open or close a gate for tasks."""

    def node_of(self, task: ReplicaTask) -> str:
        """Return the name of the node on which a replica's first rank was placed."""

    def tell(self, message: str) -> None:
        """Tell the user one line."""


class Outlet(Protocol):
    """Where clients of one service go: one address, behind it the replicas that are ready."""

    async def open(self) -> None:
        """Begin to listen.

        Raises:
            SpecError: It cannot.
        """

    @property
    def url(self) -> str:
        """What clients take."""

    @property
    def port(self) -> int:
        """Where it listens, on the session's node."""

    @property
    def variables(self) -> dict[str, str]:
        """What tasks find in their environment besides the URL."""

    @property
    def key_file(self) -> Path | None:
        """File with what clients must show; None where that is nothing."""

    def add(self, address: Address) -> None:
        """Have a replica served that is ready."""

    async def drain(self, uid: str, within_s: float) -> None:
        """Send a replica nothing more; return when it has ended what it has, or when the time is over."""

    def remove(self, uid: str) -> None:
        """Forget a replica; one that is not known is no error."""

    async def aclose(self) -> None:
        """Listen no more."""


class Nowhere(Outlet):
    """The outlet of a service that does not listen."""

    url = ""
    port = 0
    key_file = None

    @property
    @override
    def variables(self) -> dict[str, str]:
        return {}

    @override
    async def open(self) -> None:
        pass

    @override
    def add(self, address: Address) -> None:
        pass

    @override
    async def drain(self, uid: str, within_s: float) -> None:
        pass

    @override
    def remove(self, uid: str) -> None:
        pass

    @override
    async def aclose(self) -> None:
        pass
