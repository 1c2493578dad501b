"""The models that a session's tasks can ask: one router, the desk for AI tasks, the gateway for all other clients.

Nothing of it exists until it is needed: a session that asks no models needs no HTTP library.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rhapsody.errors import SpecError, unknown_name
from rhapsody.inference.policies import routing_policy
from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.services.endpoints import Endpoint, publish, withdraw
from rhapsody.session.model_outlet import ModelOutlet

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from rhapsody.abc import Listener
    from rhapsody.inference.desk import Desk
    from rhapsody.inference.gateway_run import OpenGateway
    from rhapsody.inference.router import Router
    from rhapsody.model.ai import AITask
    from rhapsody.model.service import Gate
    from rhapsody.model.task import TaskOptions
    from rhapsody.services.service import ServiceTask

GATEWAY = "gateway"
_INSTALL = "install what it needs: pip install 'rhapsody-hpc[vllm]'"
_ROUTING = "least_tokens"


class _Served(NamedTuple):
    gate: Gate
    models: tuple[str, ...]


class Models:
    """Owns all that speaks to model servers.

    Args:
        routing: Name of a routing policy, or one of the user's own; None for the usual one.
        notify: Called with one-line messages for the user.

    Raises:
        SpecError: No routing policy has that name.
    """

    def __init__(self, routing: Any, notify: Callable[[str], None]) -> None:  # noqa: ANN401 - a name, or a policy
        self._routing = _ROUTING if routing is None else routing
        routing_policy(self._routing)  # a wrong name fails here
        self._notify = notify
        self._listener: Listener | None = None
        self._clock: Callable[[], int] = lambda: 0
        self._run_dir = Path()
        self._router: Router | None = None
        self._desk: Desk | None = None
        self._told_to_end = asyncio.Event()
        self._hosting: asyncio.Task[None] | None = None
        self._services: dict[str, _Served] = {}
        """By name: those that serve models, or will."""
        self._connected: set[str] = set()
        """Models of servers that are not the session's."""
        self._servers = 0
        self._gateway: OpenGateway | None = None
        self._opening = asyncio.Lock()
        self._stack = AsyncExitStack()

    def attach(self, listener: Listener, clock: Callable[[], int], run_dir: Path) -> None:
        """Work for a session from now on.

        Args:
            listener: Hears what becomes of AI tasks.
            clock: Returns nanoseconds on the session's clock.
            run_dir: The run folder.
        """
        self._listener, self._clock, self._run_dir = listener, clock, run_dir

    # AI tasks, as a backend takes others

    def check(self, task: AITask) -> None:
        """Find out which model a task asks, and which service it waits for.

        Raises:
            SpecError: There is no such model or service; the text names those that there are.
        """
        try:
            model, gate = self._chosen(task)
        except SpecError as exc:
            raise SpecError(f"task {task.uid}: {exc}") from exc
        self._open()
        task.model = model
        if gate is not None and task.gate is None:
            task.options = _needing(task.options, gate)

    def _chosen(self, task: AITask) -> tuple[str, Gate | None]:
        if task.gate is None:
            model = _one_of(self.names, task.model)
            gates = [served.gate for served in self._services.values() if model in served.models]
            is_free = model in self._connected or not gates
            return model, None if is_free else next((gate for gate in gates if gate.is_open), gates[0])
        served = self._services.get(task.gate.name)
        if served is None:
            names = ", ".join(self._services) or "none"
            raise SpecError(f"service {task.gate.name!r} serves no models in this session; services that do: {names}")
        return _one_of(served.models, task.model), task.gate

    @property
    def names(self) -> list[str]:
        """Names of all models, of services that are not ready yet too."""
        return sorted(self._connected.union(*(served.models for served in self._services.values())))

    def launch(self, tasks: Sequence[AITask]) -> None:
        """Take over tasks that were checked; see `rhapsody.abc.Backend.launch`."""
        self._open()[1].launch(tasks)

    def cancel(self, attempts: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
        """Give up attempts; return those that are not here."""
        return attempts if self._desk is None else self._desk.cancel(attempts)

    # Model servers

    async def outlet(self, service: ServiceTask, host: str) -> ModelOutlet:
        """Return where the clients of a service that serves models go.

        Args:
            service: Which.
            host: Address to listen on.

        Raises:
            SpecError: What this needs is not installed.
        """
        self._open()
        return ModelOutlet(service, host, self)

    def expect(self, service: ServiceTask) -> None:
        """Let requests to a service's models wait for it."""
        self._services[service.name] = _Served(service.gate, tuple(service.models))
        for model in service.models:
            self._open()[0].expect(model)  # clients of the gateway wait, too

    def forget(self, service: ServiceTask) -> None:
        """Fail requests that no replica of another service can answer: this one has ended."""
        self._services.pop(service.name, None)
        if self._router is not None:
            for model in service.models:
                if not self._is_expected(model):
                    self._router.expect_no_more(model)
        self._changed()

    def add(self, replica: Replica) -> None:
        """Send requests to one more replica."""
        self._open()[0].add(replica)
        self._changed()

    def remove(self, uid: str) -> None:
        """Forget a replica: what it has goes to another. One that is not known is no error."""
        if self._router is not None and uid in self._router.replicas:
            self._router.remove(uid)
            self._changed()

    async def drain(self, uid: str, within_s: float) -> None:
        """Send a replica nothing more; return when it has ended what it has, or when the time is over."""
        if self._router is None or uid not in self._router.replicas:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._router.drain(uid)
        self._changed()

    async def connect(self, url: str, model: str, key_file: Path | str | None, probe_path: str) -> str:
        """Send requests to a model server that is not the session's; return the uid that it has here.

        Raises:
            SpecError: It does not answer, wants another key, or has no such model.
        """
        router, _ = self._open()
        from rhapsody.inference.look import trouble_with  # noqa: PLC0415 - needs the HTTP library

        self._servers += 1
        key = None if key_file is None else key_in_file(Path(key_file))
        replica = Replica(f"server.{self._servers}", url, model, key, probe_path=probe_path)
        if trouble := await trouble_with(replica):
            raise SpecError(f"the model server at {url} {trouble}")
        router.add(replica)
        self._connected.add(model)
        self._changed()
        return replica.uid

    def _changed(self) -> None:
        if self._desk is not None:
            self._desk.replicas_changed()
        self._publish()

    # The gateway

    async def gateway(self, host: str, port: int = 0) -> OpenGateway:
        """Return the session's gateway, which listens from the first call on.

        Raises:
            SpecError: It cannot listen there, listens elsewhere already, or what it needs is not installed.
        """
        async with self._opening:
            found = self._gateway
            if found is None:
                found = self._gateway = await self._stack.enter_async_context(self._new_gateway(host, port))
                self._publish()
            elif port not in (0, found.port):
                raise SpecError(f"the gateway of this session listens at {found.url}; it has no other port")
            return found

    def _new_gateway(self, host: str, port: int) -> AbstractAsyncContextManager[OpenGateway]:
        router, _ = self._open()
        try:
            from rhapsody.inference.gateway_run import gateway_on  # noqa: PLC0415 - needs the HTTP library
        except ImportError as exc:
            raise SpecError(f"a gateway cannot be started: {exc}; {_INSTALL}") from exc
        return gateway_on(router, self._run_dir / f"{GATEWAY}.key", host=host, port=port)

    def _publish(self) -> None:
        """Tell others where the gateway is, and which models it has now."""
        found = self._gateway
        if found is None:
            return
        try:
            publish(self._run_dir, endpoint_of(found))
        except SpecError as exc:
            self._notify(f"the gateway listens, but others are not told: {exc}")

    # Life

    def _open(self) -> tuple[Router, Desk]:
        """Return router and desk; the first call starts them."""
        if self._router is not None and self._desk is not None:
            return self._router, self._desk
        try:
            from rhapsody.inference.desk import Desk  # noqa: PLC0415 - a session may ask no models
            from rhapsody.inference.router import Router  # noqa: PLC0415 - needs the HTTP library
        except ImportError as exc:
            raise SpecError(f"no models can be asked: {exc}; {_INSTALL}") from exc
        if self._listener is None:
            raise SpecError("no models can be asked: the session is not open yet; `async with Session()`, or await it")
        self._router = Router(self._routing)
        self._desk = Desk(self._router, self._listener, self._clock, self._is_expected)
        hosting = self._host(self._router, self._desk)
        self._hosting = asyncio.get_running_loop().create_task(hosting, name="models")
        return self._router, self._desk

    def _is_expected(self, model: str) -> bool:
        return any(model in served.models for served in self._services.values())

    async def _host(self, router: Router, desk: Desk) -> None:
        """Keep router and desk open: both must be entered and left in one asyncio task."""
        async with router, desk.running():
            await self._told_to_end.wait()

    async def aclose(self) -> None:
        """Listen no more, and give up what is not answered. May be called again."""
        self._services.clear()
        if self._gateway is not None:
            self._gateway = None
            with suppress(SpecError):
                withdraw(self._run_dir, GATEWAY)
        try:
            await self._stack.aclose()
        finally:
            self._told_to_end.set()
            if self._hosting is not None:
                hosting, self._hosting = self._hosting, None
                await hosting


def endpoint_of(found: OpenGateway) -> Endpoint:
    """Return what a run folder says of a gateway."""
    return Endpoint(
        name=GATEWAY,
        url=found.url,
        node=found.node,
        port=found.port,
        models=found.models,
        key_file=str(found.key_file),
    )


def _one_of(models: Sequence[str], model: str | None) -> str:
    """Return the model that is meant."""
    if not models:
        raise SpecError(
            "there is no model to ask; first `await session.start(ServiceTask.vllm(…))`, or"
            " `await session.connect_model(url, model)`"
        )
    if model is None and len(models) > 1:
        raise SpecError(f"say which model it asks: model=…; models: {', '.join(models)}")
    if model is not None and model not in models:
        raise unknown_name("model", model, models)
    return model or models[0]


@lru_cache(maxsize=16)
def _needing(options: TaskOptions, gate: Gate) -> TaskOptions:
    """Return options with a service to wait for; the same for many tasks."""
    return replace(options, needs=(gate,))
