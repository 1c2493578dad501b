"""The model of a site profile: what is known of a machine, and who says so.

Profiles are YAML files (`rhapsody.deploy.sites.loading` loads them). What is not known is left out, here `None` or
empty, and is asked of the user or warned of: it is never guessed.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from rhapsody.deploy.sites.block import Block
from rhapsody.deploy.sites.container import Container, Dragon, Inference, Network, Proxy
from rhapsody.deploy.sites.nodes import NodeKind, Nodes
from rhapsody.deploy.sites.queues import Accounts, Queue, Queues
from rhapsody.deploy.sites.values import Duration, Environment, Line, Name, Size
from rhapsody.errors import unknown_name
from rhapsody.model.allocation import FrozenModel


class SchedulerKind(StrEnum):
    """What starts jobs."""

    LOCAL = "local"
    SLURM = "slurm"
    PBS = "pbs"
    KUBERNETES = "kubernetes"


class Launcher(StrEnum):
    """What starts one node agent on each node of a job."""

    NONE = "none"
    SRUN = "srun"
    MPIEXEC = "mpiexec"


class Scheduler(Block):
    """The batch system.

    Attributes:
        kind: Which.
        version: None when unknown.
        launcher: Starts the node agents.
        launcher_options: Given to it, with leading dashes: `--cpu-bind=none`.
        requeue: Whether jobs may go back to the queue; None when unknown: then only chains are offered.
        signal: Whether `--signal=B:…` announces the end of a job; without, the script keeps a timer.
        reject_message: What its users should know of a job id that disappears.
    """

    kind: SchedulerKind
    version: Line | None = None
    launcher: Launcher = Launcher.NONE
    launcher_options: tuple[Line, ...] = ()
    requeue: bool | None = None
    signal: bool = False
    reject_message: Line | None = None


UserGives = Literal["account", "queue", "walltime", "node_kind"]
"""What a user can be made to say."""


class Directives(Block):
    """What a job must say at submission, apart from nodes, walltime, account and queue.

    Attributes:
        required: What the user must give, since the site asks for it and nobody else knows it.
        options: Options of `sbatch` or `qsub` without their leading dashes: `{ntasks-per-node: "1"}`, `{k: doe}`.
        resources: PBS: `-l name=value`: `{filesystems: home:flare, place: scatter}`.
        select: PBS: chunks of the node selection: `{system: polaris}` for `-l select=N:system=polaris`.
        gpu_option: Slurm: how GPUs are asked for: `gpus-per-node` or `gres`; None for neither.
        gres: Slurm: for `gres`, what precedes the number: `gpu:h100-80`.
        fakeroot_resources: PBS: `-l name=value` for jobs whose container engine uses `--fakeroot`.
        forbidden: Options that the site forbids, with leading dashes.
    """

    required: tuple[UserGives, ...] = ()
    options: dict[Name, Line] = Field(default_factory=dict)
    resources: dict[Name, Line] = Field(default_factory=dict)
    select: dict[Name, Line] = Field(default_factory=dict)
    gpu_option: Literal["gpus-per-node", "gres"] | None = None
    gres: Line | None = None
    fakeroot_resources: dict[Name, Line] = Field(default_factory=dict)
    forbidden: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _gres_is_named(self) -> Self:
        if (self.gpu_option == "gres") != (self.gres is not None):
            raise ValueError("gres belongs to gpu_option: gres, such as gpu:h100-80; give both or neither")
        return self


class Paths(Block):
    """Where files go. In shell syntax; `{account}` and `{user}` stand for the user's own.

    Attributes:
        scratch: Fast, large, purged.
        shared: Seen by the whole project.
        home: Small, kept.
        purge_after: Files not used for so long are deleted from scratch; None when unknown.
        scratch_quota: None when unknown.
        home_quota: None when unknown.
        submit_from: Where jobs must be submitted from; None when anywhere.
    """

    scratch: Line | None = None
    shared: Line | None = None
    home: Line | None = None
    purge_after: Duration | None = None
    scratch_quota: Size | None = None
    home_quota: Size | None = None
    submit_from: Line | None = None


class Modules(Block):
    """Environment modules of every job, in order.

    Attributes:
        use: Folders for `module use`.
        unload: Unloaded first.
        load: Loaded then.
        load_gpu: Loaded as well on nodes with GPUs.
    """

    use: tuple[Line, ...] = ()
    unload: tuple[Line, ...] = ()
    load: tuple[Line, ...] = ()
    load_gpu: tuple[Line, ...] = ()


class LoginNode(Block):
    """Where users log in.

    Attributes:
        address: For `ssh`; None when unknown.
        host_patterns: Patterns (`login*`) of names of login nodes, as `hostname -f` tells them; empty when unknown.
        max_processes: A user's processes and threads; None when unknown.
        max_cores: None when unknown.
        max_memory: None when unknown.
        rules: What the site forbids there.
    """

    address: Line | None = None
    host_patterns: tuple[Line, ...] = ()
    max_processes: int | None = Field(default=None, ge=1)
    max_cores: int | None = Field(default=None, ge=1)
    max_memory: Size | None = None
    rules: tuple[Line, ...] = ()


class Services(Block):
    """How to reach a service of a job from outside.

    Attributes:
        tunnel: A command for the user's own machine, with `{port}`, `{node}`, `{user}`; None when unknown.
    """

    tunnel: Line | None = None


class Variables(Block):
    """Environment variables of every job.

    Attributes:
        variables: Set in the job.
        gpu_variables: Set as well on nodes with GPUs.
    """

    variables: Environment = Field(default_factory=dict)
    gpu_variables: Environment = Field(default_factory=dict)


class Kubernetes(Block):
    """Facts of a cluster for the chart.

    Attributes:
        storage_shared: Storage class that many pods can mount.
        storage_block: Storage class for one pod.
        service_annotations: Of Services of type LoadBalancer.
        ingress_domain: Names below it are routed to the cluster.
        image_prefix: Put before names of images of Docker Hub.
        connect: How to reach a service, with `{release}`, `{service}`, `{port}`.
    """

    storage_shared: Name | None = None
    storage_block: Name | None = None
    service_annotations: dict[Line, Line] = Field(default_factory=dict)
    ingress_domain: Line | None = None
    image_prefix: Line | None = None
    connect: Line | None = None


class SiteProfile(FrozenModel):
    """Everything known of a site. Made by `rhapsody.deploy.sites.loading.load_site`.

    Attributes:
        schema_version: In YAML `schema`; 1.
        name: The file's name without `.yaml`.
        title: The machine and who runs it, in a line.
        extends: The profile whose blocks this one starts from; None for none.
        url: Of the facility's own guide.
    """

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    title: Line
    extends: Name | None = None
    url: Line | None = None
    scheduler: Scheduler
    directives: Directives | None = None
    nodes: Nodes | None = None
    queues: Queues | None = None
    accounts: Accounts | None = None
    container: Container | None = None
    network: Network | None = None
    proxy: Proxy | None = None
    paths: Paths | None = None
    modules: Modules | None = None
    environment: Variables | None = None
    login_node: LoginNode | None = None
    services: Services | None = None
    dragon: Dragon | None = None
    inference: Inference | None = None
    kubernetes: Kubernetes | None = None

    @model_validator(mode="after")
    def _names_meet(self) -> Self:
        kinds = {kind.name for kind in self.kinds}
        for queue in self.queue_entries:
            if missing := [name for name in queue.node_kinds if name not in kinds]:
                raise ValueError(
                    f"queue {queue.name!r} names the kind of nodes {missing[0]!r}, which nodes.kinds lacks"
                )
        accounts = set(self.accounts.kinds) if self.accounts else set()
        named = {name for queue in self.queue_entries for name in queue.account_kinds}
        named |= {name for kind in self.kinds for name in kind.account_kinds}
        named |= set(self.accounts.suffixes) if self.accounts else set()
        if missing := sorted(named - accounts):
            raise ValueError(f"the kind of account {missing[0]!r} is named, but accounts.kinds lacks it")
        return self

    @property
    def kinds(self) -> tuple[NodeKind, ...]:
        """The kinds of nodes; empty when unknown."""
        return self.nodes.kinds if self.nodes else ()

    @property
    def queue_entries(self) -> tuple[Queue, ...]:
        """The queues; empty when none is known."""
        return self.queues.entries if self.queues else ()

    @property
    def required(self) -> tuple[str, ...]:
        """What the user must give."""
        return self.directives.required if self.directives else ()

    @property
    def blocks(self) -> dict[str, Block]:
        """The blocks that the profile has, by name, in the order of the model."""
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return {name: value for name, value in values if isinstance(value, Block)}

    def queue(self, name: str) -> Queue:
        """Return a queue.

        Raises:
            SpecError: The site has none of that name.
        """
        for queue in self.queue_entries:
            if queue.name == name:
                return queue
        raise unknown_name(f"queue of {self.name}", name, (queue.name for queue in self.queue_entries))

    def kind(self, name: str) -> NodeKind:
        """Return a kind of nodes.

        Raises:
            SpecError: The site has none of that name.
        """
        for kind in self.kinds:
            if kind.name == name:
                return kind
        raise unknown_name(f"kind of nodes of {self.name}", name, (kind.name for kind in self.kinds))

    def kinds_of(self, queue: Queue) -> tuple[NodeKind, ...]:
        """Return the kinds of nodes that a queue has, in its order; the site's own where it names none."""
        return tuple(self.kind(name) for name in queue.node_kinds) or self.kinds
