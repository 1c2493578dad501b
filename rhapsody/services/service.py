"""Services: a process group that stays, and has an endpoint.

A `ServiceTask` says what to start; once `Session.start` has accepted it, it also tells how it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.service import Gate
from rhapsody.services import vllm
from rhapsody.services.endpoints import variable_of
from rhapsody.services.probes import HttpProbe, PortProbe, Probe, probe_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rhapsody.model.policy import Policy

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MOST_REPLICAS = 100_000


class ServiceState(StrEnum):
    """How a service is."""

    NEW = "NEW"
    STARTING = "STARTING"
    """None of its replicas is ready yet, or any more."""
    READY = "READY"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"
    """Its last replica was given up."""

    @property
    def is_over(self) -> bool:
        """Whether it will not be ready again."""
        return self in {ServiceState.STOPPED, ServiceState.FAILED}


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
class Restart:
    """When a replica that has ended is started again.

    Attributes:
        limit: Starts again in a row that are tried, before it is given up.
        delay_s: Seconds before the first of them.
        factor: Each further delay is so many times the one before.
        most_s: Longest delay.
        steady_s: A replica that was ready for so long begins to count anew.
    """

    limit: int = 5
    delay_s: float = 1.0
    factor: float = 2.0
    most_s: float = 60.0
    steady_s: float = 60.0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.delay_s < 0 or self.factor < 1 or self.most_s < 0 or self.steady_s < 0:
            raise SpecError(f"{self} makes no sense: nothing may be negative, and factor at least 1")

    def delay_before(self, restart: int) -> float:
        """Return the seconds before a start again, counted from 1."""
        return float(min(self.most_s, self.delay_s * self.factor ** (restart - 1)))


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

    async def ready(self, replicas: int | None, timeout_s: float | None) -> None:
        """Return when so many are ready; see `ServiceTask.ready`."""

    async def scale(self, replicas: int) -> None:
        """Have so many replicas; see `ServiceTask.scale`."""

    async def stop(self) -> None:
        """End the service; see `ServiceTask.stop`."""


@dataclass(eq=False)
class ServiceTask:
    """A program or Python function that stays: so many replicas of it, restarted when they end.

    Placeholders in `arguments` and in the values of `env` are filled in where a replica runs: `{port}`, `{host}`,
    `{work_dir}` (a folder of its own, removed at its end), `{state_dir}` (a folder of all replicas, which stays, for a
    resumed run too), `{run_dir}`, `{replica}`, and for replicas of several ranks `{rank}`, `{ranks}`,
    `{leader_host}` and `{leader_port}`, at which rank 0 may listen.

    Tasks with `needs=[service]` wait until it is ready and find its address as `RHAPSODY_SERVICE_<NAME>_URL`. That one
    stays the same while replicas come and go.

    Attributes:
        name: Unique in the session: letters, digits and `.`, `_`, `-`.
        executable: Path, or a name that is found on PATH. Either this or `function`.
        function: Runs in a process of its own; gets `host` and `port` where it has parameters of these names. It is
            not to return: whatever a replica exits with, unless asked to stop, is a failure.
        arguments: Of the executable.
        args: Positional arguments of the function.
        kwargs: Keyword arguments of the function.
        replicas: How many at first.
        resources: Of one replica. Several ranks are started through MPI's launcher, one process each.
        env: Variables added to its environment.
        secrets: Variables that are passed by a file only its owner may read: never in a command line, log or record.
        cwd: Folder to run in; the session's unless given.
        listens: Whether it has a port, and so an endpoint.
        port: That it must have on its node; None picks a free one.
        path: Of its URL, behind the port: `/v1`.
        readiness: What shows that a replica is ready: a path such as `/health`, `re.compile(…)` for a line of its log,
            a function, or a probe. Unless given, that the port accepts connections.
        ready_within_s: Seconds in which a start must be ready.
        health: What shows that it is still well, of the same kinds; unless given, nothing is asked. False for none
            where `readiness` would do.
        health_every_s: Seconds between two such questions; three bad answers in a row end the replica.
        restart: When a replica that ended is started again.
        drain_s: Seconds that a replica gets to end what it has before it is stopped.
        models: Names of models that it serves by OpenAI's API: requests of AI tasks and of the gateway go to it.
        key: Name of the secret that its clients must show, if any.
        embeds: Its models give vectors, not text.
        extra_arguments: Further arguments of ranks other than 0.
        policy: Overrides the session's, field by field.
        priority: Higher goes first when there are too few slots.

    Raises:
        SpecError: A value is wrong.
    """

    name: str
    executable: str | Path | None = None
    function: Callable[..., Any] | None = None
    arguments: Sequence[object] = ()
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1
    resources: Resources = SERIAL
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    cwd: str | Path | None = None
    listens: bool = True
    port: int | None = None
    path: str = ""
    readiness: Any = None
    ready_within_s: float = 300.0
    health: Any = None
    health_every_s: float = 10.0
    restart: Restart = field(default_factory=Restart)
    drain_s: float = 30.0
    models: Sequence[str] = ()
    key: str | None = None
    embeds: bool = False
    extra_arguments: Sequence[object] = ()
    policy: Policy | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        self.variable = variable_of(self.name)
        self.gate = Gate(self.name)
        """What tasks wait for that need the service."""
        self._supervision: Supervision | None = None
        _require_payload(self)
        _require_numbers(self)
        _require_variables(self)
        self.probes = self._probes()

    def _probes(self) -> Health:
        ready: Probe
        if self.readiness is not None:
            ready = probe_of(self.readiness, "readiness")
        elif self.models:
            ready = HttpProbe("/v1/models", key=self.key)
        elif self.listens:
            ready = PortProbe()
        else:
            raise SpecError(f"service {self.name} does not listen: say by readiness=… how it is seen that it is ready")
        well = None if self.health in (None, False) else probe_of(self.health, "health")
        return Health(ready, self.ready_within_s, well=well, every_s=self.health_every_s)

    @classmethod
    def vllm(cls, model: str, **options: Any) -> Self:  # noqa: ANN401 - documented here
        """Return a service of vLLM's OpenAI-compatible server, with a key made for the run.

        Args:
            model: Name of the model, or the folder that it lies in.
            options: `name`; `served_as`, the name by which requests ask for the model; `replicas`; `tensor_parallel`
                and `pipeline_parallel`, GPUs of one replica; `nodes`, over which one replica is spread by vLLM itself;
                `resources` of a replica, else a core for each GPU; `python`, the interpreter of an environment that has
                vLLM, or `image`, one for Apptainer, with `image_flags` such as `["--nv"]`; `embeds`, for models that
                give vectors; `options`, a dict of vLLM's own: `{"max_model_len": 4096}`; and all else that a
                `ServiceTask` takes.

        Raises:
            SpecError: They contradict one another.
        """
        return cls(**vllm.describe(model, **options))

    # How it is

    @property
    def state(self) -> ServiceState:
        """How it is."""
        return ServiceState.NEW if self._supervision is None else self._supervision.state

    @property
    def reason(self) -> str:
        """Why it is in its state; empty if all is well."""
        return "" if self._supervision is None else self._supervision.reason

    @property
    def status(self) -> Sequence[ReplicaView]:
        """How its replicas are, in their order."""
        return () if self._supervision is None else self._supervision.replicas

    @property
    def endpoints(self) -> list[Address]:
        """Where its ready replicas are."""
        return [view.address for view in self.status if view.state is ReplicaState.READY and view.address is not None]

    @property
    def url(self) -> str:
        """What clients take: an address that goes to a ready replica, whichever these are.

        Raises:
            SpecError: The service was not ready yet, or has no endpoint.
        """
        url = "" if self._supervision is None else self._supervision.url
        if not url:
            why = f"is {self.state}; first `await service.ready()`" if self.listens else "does not listen"
            raise SpecError(f"service {self.name} has no URL: it {why}")
        return url

    async def ready(self, replicas: int | None = None, *, timeout_s: float | None = None) -> Self:
        """Return when it is ready.

        Args:
            replicas: How many must be; all that it shall have when None.
            timeout_s: Seconds at most; None waits as long as its starts may take.

        Raises:
            ServiceError: They cannot be any more, with the last lines of a log; or not in time.
            SpecError: The service was not started.
        """
        await self._supervised().ready(replicas, timeout_s)
        return self

    async def scale(self, replicas: int) -> None:
        """Have so many replicas from now on; returns when those too many are drained and gone, others may still start.

        Raises:
            SpecError: They can never fit, or it is no number of at least 0.
            ServiceError: The service is over.
        """
        require_replicas(self.name, replicas, least=0)
        await self._supervised().scale(replicas)

    async def stop(self) -> None:
        """Drain and end all replicas; returns when no process of it is left. Tasks that still wait for it end."""
        await self._supervised().stop()

    def kept_by(self, supervision: Supervision) -> None:
        """Take note of who keeps it; called once, by the session that starts it.

        Raises:
            SpecError: It was started before.
        """
        if self._supervision is not None:
            raise SpecError(f"service {self.name} was started before; make a new ServiceTask to start it again")
        self._supervision = supervision

    def _supervised(self) -> Supervision:
        if self._supervision is None:
            raise SpecError(f"service {self.name} was not started; first `await session.start(service)`")
        return self._supervision


def require_replicas(name: str, replicas: object, *, least: int) -> None:
    """Refuse what is no number of replicas.

    Raises:
        SpecError: It is none.
    """
    if type(replicas) is not int or not least <= replicas <= _MOST_REPLICAS:
        raise SpecError(
            f"service {name}: replicas={replicas!r} must be a whole number from {least} to {_MOST_REPLICAS:,}"
        )


def _require_payload(service: ServiceTask) -> None:
    if (service.executable is None) is (service.function is None):
        found = "neither" if service.function is None else "both"
        raise SpecError(f"service {service.name} needs an executable or a function, got {found}")
    if service.function is not None and not callable(service.function):
        raise SpecError(f"service {service.name}: function={service.function!r} cannot be called")
    for what in ("arguments", "args", "models", "extra_arguments"):
        value = getattr(service, what)
        if isinstance(value, str | bytes):
            raise SpecError(f"service {service.name}: {what}={value!r} is no list; for a single one write [{value!r}]")
    if not isinstance(service.resources, Resources):
        raise SpecError(f"service {service.name}: resources={service.resources!r} must be Resources(…)")


def _require_numbers(service: ServiceTask) -> None:
    require_replicas(service.name, service.replicas, least=1)
    for what in ("ready_within_s", "health_every_s", "drain_s"):
        value = getattr(service, what)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise SpecError(f"service {service.name}: {what}={value!r} must be a number of seconds")
    port = service.port
    if port is not None and (type(port) is not int or not 1 <= port <= 65535):
        raise SpecError(f"service {service.name}: port={port!r} must be from 1 to 65535; None picks a free one")
    if (service.port is not None or service.models) and not service.listens:
        raise SpecError(f"service {service.name}: with listens=False it has no port, and serves no models")


def _require_variables(service: ServiceTask) -> None:
    for what in ("env", "secrets"):
        for name, value in getattr(service, what).items():
            if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
                raise SpecError(f"service {service.name}: {what} has {name!r}, which no variable can be called")
            if not isinstance(value, str) or "\0" in value:
                shown = "its value" if what == "secrets" else repr(value)
                raise SpecError(f"service {service.name}: {what}[{name!r}]: {shown} must be a text")
    if service.key is not None and service.key not in service.secrets:
        raise SpecError(f"service {service.name}: key={service.key!r} is none of its secrets; add it to secrets=…")
