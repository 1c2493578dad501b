"""How images run at a site, and what a job needs to find the network and the outside world."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from rhapsody.deploy.sites.block import Block
from rhapsody.deploy.sites.values import Environment, Line, Name
from rhapsody.model.allocation import FrozenModel


class EngineName(StrEnum):
    """Container engines that a script can be written for."""

    APPTAINER = "apptainer"
    PODMAN_HPC = "podman-hpc"
    SHIFTER = "shifter"
    PODMAN = "podman"


class Engine(FrozenModel):
    """One container engine of a site.

    Attributes:
        name: Which; also the command.
        version: As the site says; None when unknown.
        modules: To be loaded before the command is there, in order.
        module_paths: For `module use`, before these.
        flags: Always given to the command that starts a container.
        gpu_flags: Given as well on nodes with GPUs.
        mpi_flags: Given as well where ranks in containers use the host's MPI.
        binds: Folders of the host mounted in the container, `from[:to[:ro]]`; `$VARIABLES` are those of the job.
        environment: Set inside the container.
        passes: Beginnings of the names of variables that reach the inside by themselves; others are named one by one.
            None means that all do.
        mpi_abi: The MPI whose ABI the image must have for the host's library: `MPICH 3.4`.
        prepare: Commands that a user runs once per image, with `{image}`.
        compute_nodes_only: The command is not on login nodes.
        notes: What else to know.
    """

    name: EngineName
    version: Line | None = None
    modules: tuple[Line, ...] = ()
    module_paths: tuple[Line, ...] = ()
    flags: tuple[Line, ...] = ()
    gpu_flags: tuple[Line, ...] = ()
    mpi_flags: tuple[Line, ...] = ()
    binds: tuple[Line, ...] = ()
    environment: Environment = Field(default_factory=dict)
    passes: tuple[Line, ...] | None = None
    mpi_abi: Line | None = None
    prepare: tuple[Line, ...] = ()
    compute_nodes_only: bool = False
    notes: tuple[Line, ...] = ()


class Staging(StrEnum):
    """How the image gets onto the nodes' own disks."""

    SBCAST = "sbcast"
    COPY = "copy"


class Container(Block):
    """Container engines, the one to take first.

    Attributes:
        engines: Empty when none is known: the user must then name one.
        staging: None when the image is read from where it is.
    """

    engines: tuple[Engine, ...] = ()
    staging: Staging | None = None

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [str(engine.name) for engine in self.engines]
        if len(set(names)) != len(names):
            raise ValueError(f"an engine is named twice: {', '.join(names)}")
        return self


class Collectives(FrozenModel):
    """Variables for RCCL or NCCL: opt-in, since they change how MPI behaves, too.

    Attributes:
        library: Which of the two.
        modules: To be loaded first.
        environment: Always.
        one_node: On one node only.
        many_nodes: On more than one node.
        options: Options of the submit command, without the leading dashes; only for jobs that mostly use the library.
        with_options: Variables that must be set whenever `options` are given.
    """

    library: Name
    modules: tuple[Line, ...] = ()
    environment: Environment = Field(default_factory=dict)
    one_node: Environment = Field(default_factory=dict)
    many_nodes: Environment = Field(default_factory=dict)
    options: dict[Name, Line] = Field(default_factory=dict)
    with_options: Environment = Field(default_factory=dict)


class Network(Block):
    """The network between nodes.

    Attributes:
        fabric: `slingshot`, `infiniband`; None when unknown.
        interfaces: Names of interfaces as `ip link` shows them; empty when unknown.
        host_suffix: What follows a node's short name to get its name on that network.
        environment: Set in every job.
        collectives: None when nothing is known.
    """

    fabric: Name | None = None
    interfaces: tuple[Name, ...] = ()
    host_suffix: Line | None = None
    environment: Environment = Field(default_factory=dict)
    collectives: Collectives | None = None


class Proxy(Block):
    """The way from compute nodes to the internet. Set in the job only.

    Attributes:
        http: URL for http.
        https: URL for https.
        no_proxy: Names that are reached directly; the names of the job's nodes are added.
        needed: Whether there is no internet without; None when unknown.
    """

    http: Line | None = None
    https: Line | None = None
    no_proxy: tuple[Line, ...] = ()
    needed: bool | None = None


class Dragon(Block):
    """What Dragon needs at the site.

    Attributes:
        transport: Of its network: `tcp`, `ucx`, `ofi`; None leaves it to Dragon.
        modules: To be loaded first.
        unload: Modules to be unloaded.
        environment: Set for it; `$VARIABLES` are those of the job.
        configure: Commands that a user runs once.
    """

    transport: Name | None = None
    modules: tuple[Line, ...] = ()
    unload: tuple[Line, ...] = ()
    environment: Environment = Field(default_factory=dict)
    configure: tuple[Line, ...] = ()


class Inference(Block):
    """What is known of model servers at the site.

    Attributes:
        tensor_parallel: Sizes that work, the preferred one first; empty means any.
        many_nodes: Whether one replica over several nodes is recommended; None when unknown.
        modules: That hold one.
        environment: Set for it.
        weights: Folder of the site with model weights.
    """

    tensor_parallel: tuple[int, ...] = Field(default=(), description="sizes that work, the preferred one first")
    many_nodes: bool | None = None
    modules: tuple[Line, ...] = ()
    environment: Environment = Field(default_factory=dict)
    weights: Line | None = None
