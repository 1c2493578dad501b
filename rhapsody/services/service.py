"""Services: a process group that stays, and has an endpoint.

A `ServiceTask` says what to start; once `Session.start` has accepted it, it also tells how it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.service import Gate
from rhapsody.services import ai_worker, training, vllm
from rhapsody.services.endpoints import variable_of
from rhapsody.services.probes import HttpProbe, PortProbe, Probe, StartedProbe, probe_of
from rhapsody.services.restart import Restart
from rhapsody.services.states import Health, ReplicaState, ServiceState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rhapsody.model.policy import Policy
    from rhapsody.services.states import Address, ReplicaView, Supervision

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_URL_PATH = re.compile(r"(/[A-Za-z0-9._~/-]*)?", re.ASCII)
_MOST_REPLICAS = 100_000


@dataclass(eq=False)
class ServiceTask:
    """A program or Python function that stays: so many replicas of it, restarted when they end.

    Placeholders in `arguments` and in the values of `env` are filled in where a replica runs: `{port}`, `{host}`,
    `{work_dir}` (a folder of its own, removed at its end), `{state_dir}` (a folder of all replicas, which stays, for a
    resumed run too), `{files}`, `{run_dir}`, `{replica}`, and for replicas of several ranks `{rank}`, `{ranks}`,
    `{leader_host}` and `{leader_port}`, at which rank 0 may listen.

    Tasks with `needs=[service]` wait until it is ready and find its address as `RHAPSODY_SERVICE_<NAME>_URL`. That one
    stays the same while replicas come and go. Those that need a service that ends wait until it has ended well.

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
        files: By name, bytes that are written, or folders that are linked, into `{files}` before it starts.
        cwd: Folder to run in; the session's unless given.
        listens: Whether it has a port, and so an endpoint.
        ends: Whether its replicas end by themselves, as a training does: then exit code 0 is no failure. Such a service
            does not listen.
        port: That it must have on its node; None picks a free one.
        scheme: Of its URL.
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
    files: Mapping[str, bytes | Path] = field(default_factory=dict, repr=False)
    cwd: str | Path | None = None
    listens: bool = True
    ends: bool = False
    port: int | None = None
    scheme: str = "http"
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
        elif self.ends:
            ready = StartedProbe()
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

    @classmethod
    def ai_worker(cls, model: str, loader: Callable[..., object] | str, **options: Any) -> Self:  # noqa: ANN401
        """Return a service of AI workers: processes that hold a loaded model and are fed in batches by a queue.

        Args:
            model: The name by which requests ask for it.
            loader: Returns a `rhapsody.inference.worker_model.Model`; called once in each worker. A function, or its
                name as `"module:function"`, for another version of Python.
            options: `name`; `loader_options`, for the loader by name; `python`, the interpreter of an environment that
                has the model's libraries, aiohttp, msgspec and cloudpickle; `max_batch` prompts in a batch;
                `max_wait_ms`, so long a batch waits for more; `hang_s`, a call that takes longer hangs; `embeds`, for
                models that give vectors; and all else that a `ServiceTask` takes.

        Raises:
            SpecError: A value is wrong.
        """
        return cls(**ai_worker.describe(model, loader, **options))

    @classmethod
    def torchrun(cls, script: str | Path, *arguments: object, **options: Any) -> Self:  # noqa: ANN401 - documented here
        """Return a service that trains: PyTorch's launcher on one node or several, for a script that ends.

        The script finds `RHAPSODY_CHECKPOINTS`, a folder that stays: when a process of the training has ended badly,
        all of it is started again, and goes on from what it has saved there. `await service.done()` waits for the end.

        Args:
            script: Path of the script; name of a module with `module=True`.
            arguments: Of the script.
            options: `name`, else `training`; `nodes`; `processes_per_node`, a number or `"gpus"` for one per GPU;
                `cores_per_process`; `gpus_per_node`; or `resources`, with a rank for each node; `python`, the
                interpreter of an environment that has torch; `checkpoints`, a folder of one's own; and all else that a
                `ServiceTask` takes.

        Raises:
            SpecError: They contradict one another, or the script is not there.
        """
        return cls(**training.describe(script, *arguments, **options))

    @classmethod
    def deepspeed(cls, script: str | Path, *arguments: object, **options: Any) -> Self:  # noqa: ANN401 - as torchrun
        """Return a service that trains by DeepSpeed: as `torchrun`, whose launcher it uses, with the same arguments.

        DeepSpeed's own launcher would reach other nodes by ssh. The interpreter needs deepspeed besides torch, and the
        script's arguments name its configuration, as `--deepspeed_config`.

        Raises:
            SpecError: As `torchrun`.
        """
        return cls(**training.describe(script, *arguments, modules=("torch", "deepspeed"), **options))

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

    @property
    def state_dir(self) -> Path:
        """Folder of what its replicas keep, their `{state_dir}`; it stays after the run.

        Raises:
            SpecError: The service was not started.
        """
        return self._supervised().state_dir

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

    async def done(self, *, timeout_s: float | None = None) -> Self:
        """Return when all its replicas have ended well.

        Args:
            timeout_s: Seconds at most.

        Raises:
            ServiceError: One was given up, with the last lines of its log; or it was stopped; or not in time.
            SpecError: The service was not started, or is not one that ends.
        """
        if not self.ends:
            raise SpecError(f"service {self.name} does not end by itself; one that does is made with ends=True")
        await self._supervised().done(timeout_s)
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

    def require_new(self) -> None:
        """Refuse a service that was started before.

        Raises:
            SpecError: It was.
        """
        if self._supervision is not None:
            raise SpecError(f"service {self.name} was started before; make a new ServiceTask to start it again")

    def kept_by(self, supervision: Supervision) -> None:
        """Take note of who keeps it; called once, by the session that starts it."""
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
    if not _SCHEME.fullmatch(service.scheme) or not _URL_PATH.fullmatch(service.path):
        where = f"scheme={service.scheme!r}, path={service.path!r}"
        raise SpecError(f"service {service.name}: {where} make no URL; such as scheme='redis', path='/v1'")
    if (service.port is not None or service.models) and not service.listens:
        raise SpecError(f"service {service.name}: with listens=False it has no port, and serves no models")
    if service.ends and service.listens:
        raise SpecError(f"service {service.name}: one that ends has no endpoint; with ends=True say listens=False")


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
