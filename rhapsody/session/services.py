"""The services of one session: started, kept, and ended with it."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from typing_extensions import override

from rhapsody.backends.node_pools import own_rank
from rhapsody.errors import SpecError
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.node.identity import LOOPBACK, own_addresses
from rhapsody.services.front import Front
from rhapsody.services.ground import Ground
from rhapsody.services.service import ServiceTask
from rhapsody.services.supervisor import Supervisor
from rhapsody.session.models import GATEWAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rhapsody.abc import RunContext
    from rhapsody.model.resources import Placement
    from rhapsody.model.service import Gate, ReplicaTask
    from rhapsody.scheduling.scheduler import Scheduler
    from rhapsody.services.ground import Outlet
    from rhapsody.session.models import Models

LOCALHOST = "127.0.0.1"


class Services(Ground):
    """Keeps the services of a session.

    Args:
        scheduler: Runs their replicas.
        context: Of the run.
        models: Gets the replicas of model servers.
        notify: Called with one-line messages for the user.
    """

    def __init__(
        self, scheduler: Scheduler, context: RunContext, models: Models, notify: Callable[[str], None]
    ) -> None:
        self._scheduler, self._context, self._models = scheduler, context, models
        self._notify = notify
        nodes = context.allocation.nodes
        own = own_rank(nodes) if len(nodes) > 1 else 0
        self._node_name = nodes[own].name if own >= 0 else socket.gethostname()
        outside = [address for address in own_addresses() if not address.startswith(LOOPBACK)]
        self._session_at = outside if len(nodes) > 1 else []
        self._kept: dict[str, tuple[ServiceTask, Supervisor, asyncio.Task[None]]] = {}

    @property
    def host(self) -> str:
        """Address at which all nodes reach this one."""
        return self._session_at[0] if self._session_at else LOCALHOST

    async def start(self, service: ServiceTask) -> ServiceTask:
        """Accept a service; see `Session.start`."""
        if not isinstance(service, ServiceTask):
            raise SpecError(f"start() takes a ServiceTask, not {service!r}; tasks that end go to submit()")
        service.require_new()
        self._require_name(service)
        supervisor = Supervisor(service, self, await self._outlet_of(service))
        self._scheduler.watch_gate(service.gate)
        try:
            await supervisor.begin()
        except BaseException:  # cancellation too: nobody may wait for it
            self._scheduler.turn_gate(service.gate, State.CANCELED, Failure(Cause.CANCELED, "it was not started"))
            raise
        running = asyncio.get_running_loop().create_task(supervisor.run(), name=f"service {service.name}")
        self._kept[service.name] = service, supervisor, running
        return service

    def _require_name(self, service: ServiceTask) -> None:
        if service.name == GATEWAY:
            raise SpecError(f"a service cannot be called {GATEWAY!r}: that is the session's own; give it another name")
        for other, _, _ in self._kept.values():
            if other.name == service.name:
                raise SpecError(f"this session has a service {service.name!r} already; give this one another name")
            if other.variable == service.variable:
                raise SpecError(
                    f"the services {other.name!r} and {service.name!r} would both be {service.variable} in the"
                    " environment of tasks; call one of them otherwise"
                )

    async def _outlet_of(self, service: ServiceTask) -> Outlet | None:
        if not service.listens:
            return None
        if service.models:
            return await self._models.outlet(service, self.host)
        return Front(self.host, service.scheme, service.path)

    async def aclose(self, limit_s: float) -> None:
        """End all services; returns when no process of them is left, or after the limit."""
        for _, supervisor, _ in self._kept.values():
            supervisor.end(drain=False)
        running = [each for _, _, each in self._kept.values()]
        if not running:
            return
        _, late = await asyncio.wait(running, timeout=limit_s)
        for each in late:
            each.cancel()
        if late:
            self._notify(f"{len(late)} services did not end within {limit_s:.3g} s; ending them hard")
            await asyncio.wait(late)
        for each in running:
            if not each.cancelled() and (error := each.exception()) is not None:
                self._notify(f"{each.get_name()} was not kept as it should be: {error!r}")

    # What services stand on

    @property
    @override
    def run_dir(self) -> Path:
        return self._context.run_dir

    @property
    @override
    def logs(self) -> Path:
        return self._context.logs

    @property
    @override
    def session_at(self) -> Sequence[str]:
        return self._session_at

    @property
    @override
    def node_name(self) -> str:
        return self._node_name

    @override
    async def submit(self, tasks: Sequence[ReplicaTask]) -> None:
        await self._scheduler.submit(tasks)

    @override
    def cancel(self, tasks: Iterable[ReplicaTask]) -> None:
        self._scheduler.cancel(tasks)

    @override
    def turn(self, gate: Gate, state: State, failure: Failure | None = None) -> None:
        self._scheduler.turn_gate(gate, state, failure)

    @override
    def node_of(self, task: ReplicaTask) -> str:
        placement: Placement = task.lease.placement
        return self._context.allocation.nodes[placement.slots[0].node].name

    @override
    def tell(self, message: str) -> None:
        self._notify(message)
