"""The nodes a session may use, and how each is built.

Core ids are 0…cores-1 of a node; `Node.cpus` says which CPU of the operating system each of them is.
"""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class FrozenModel(BaseModel):
    """Base of serialised models: immutable, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeShape(FrozenModel):
    """How one kind of node is built.

    Attributes:
        cores: Cores that can be given to tasks or are reserved; ids 0…cores-1.
        gpus: GPUs; ids 0…gpus-1.
        memory_bytes: Memory for tasks; 0 when unknown, and then requests for memory are refused.
        reserved_cores: Core ids kept for the system; never in a slot.
        numa: Core ids of each NUMA domain; empty when there is only one.
        gpu_cores: For each GPU, the core ids near it; empty when unknown.
        gpu_vendor: Decides which variable makes GPUs visible.
    """

    cores: int = Field(ge=1)
    gpus: int = Field(default=0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    reserved_cores: tuple[int, ...] = ()
    numa: tuple[tuple[int, ...], ...] = ()
    gpu_cores: tuple[tuple[int, ...], ...] = ()
    gpu_vendor: str = Field(default="nvidia", pattern="^(nvidia|amd|intel)$")

    @model_validator(mode="after")
    def _core_ids_exist(self) -> Self:
        named = [*self.reserved_cores, *(c for d in self.numa for c in d), *(c for g in self.gpu_cores for c in g)]
        wrong = sorted({core for core in named if not 0 <= core < self.cores})
        if wrong:
            raise ValueError(f"core ids {wrong} do not exist: the node has cores 0 to {self.cores - 1}")
        if self.gpu_cores and len(self.gpu_cores) != self.gpus:
            raise ValueError(f"gpu_cores names {len(self.gpu_cores)} GPUs, but the node has {self.gpus}")
        if self.usable_cores < 1:
            raise ValueError(f"all {self.cores} cores are reserved; leave at least one")
        return self

    @property
    def usable_cores(self) -> int:
        """Cores that tasks can get."""
        return self.cores - len(set(self.reserved_cores))


class Node(FrozenModel):
    """One node of the allocation.

    Attributes:
        name: Host name.
        shape: How it is built.
        cpus: CPU number of the operating system for each core id; empty means they are the same.
    """

    name: str
    shape: NodeShape
    cpus: tuple[int, ...] = ()

    def cpu_of(self, core: int) -> int:
        """Return the operating system's number of a core."""
        return self.cpus[core] if self.cpus else core


class Allocation(FrozenModel):
    """The nodes that a job holds, or that were declared.

    Attributes:
        nodes: At least one.
        source: Where it comes from: `declared`, `affinity` or the batch system's name.
        oversubscribed: More cores were declared than the affinity mask holds: several share a CPU.
    """

    nodes: tuple[Node, ...] = Field(min_length=1)
    source: str = "declared"
    oversubscribed: bool = False

    @property
    def usable_cores(self) -> int:
        """Cores that tasks can get, over all nodes."""
        return sum(node.shape.usable_cores for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs over all nodes."""
        return sum(node.shape.gpus for node in self.nodes)
