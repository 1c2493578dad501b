"""How the nodes of a site are built."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rhapsody.deploy.sites.block import Block
from rhapsody.deploy.sites.values import CoreSet, Line, Name, Size
from rhapsody.model.allocation import FrozenModel, NodeShape

Count = Annotated[int, Field(ge=1)]


class Gpus(FrozenModel):
    """The GPUs of one node, as the batch system counts them.

    Attributes:
        count: How many: GCDs of an MI250X, tiles of a PVC.
        vendor: Decides which variable makes them visible.
        model: What they are.
        memory: Of each.
        cores: The cores near each of them, in order of GPU ids; empty when unknown.
    """

    count: Count
    vendor: Literal["nvidia", "amd", "intel"]
    model: Line | None = None
    memory: Size | None = None
    cores: tuple[CoreSet, ...] = ()


class LocalDisk(FrozenModel):
    """A disk of the node's own.

    Attributes:
        path: Where it is mounted, in shell syntax: `/mnt/bb/$USER`. None where only its size is known.
        size: Of all of it on one node.
        constraint: The feature that a job must ask for to find it there; None when it is always there.
    """

    path: Line | None = None
    size: Size | None = None
    constraint: Line | None = None


class NodeKind(FrozenModel):
    """One kind of node.

    Attributes:
        name: What queues call it in the profile.
        count: How many the machine has; None when unknown.
        cores: Cores of a node, hardware threads not counted; None when unknown.
        reserved_cores: Core ids that the system keeps.
        smt: Hardware threads per core; None when unknown.
        numa_domains: How many; None when unknown.
        numa: The cores of each, where they are known.
        memory: Main memory.
        gpus: None for a node without.
        nics: Network cards.
        local_disk: None when there is none, or nothing is known of it.
        constraint: The feature that selects this kind, as the batch system spells it: `gpu&hbm80g`.
        account_kinds: Kinds of accounts that pay for it, where queues name none; empty means any.
        notes: What else to know.
    """

    name: Name
    count: Count | None = None
    cores: Count | None = None
    reserved_cores: CoreSet = ()
    smt: Count | None = None
    numa_domains: Count | None = None
    numa: tuple[CoreSet, ...] = ()
    memory: Size | None = None
    gpus: Gpus | None = None
    nics: Count | None = None
    local_disk: LocalDisk | None = None
    constraint: Line | None = None
    account_kinds: tuple[Name, ...] = ()
    notes: tuple[Line, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.cores is None and (self.reserved_cores or self.numa or (self.gpus and self.gpus.cores)):
            raise ValueError("reserved_cores, numa and gpus.cores name cores: say how many there are in `cores`")
        self.shape()
        if self.numa and self.numa_domains not in {None, len(self.numa)}:
            raise ValueError(f"numa names {len(self.numa)} domains, but numa_domains is {self.numa_domains}")
        return self

    @property
    def gpu_count(self) -> int:
        """GPUs of a node; 0 where there are none."""
        return self.gpus.count if self.gpus else 0

    @property
    def usable_cores(self) -> int | None:
        """Cores of a node that jobs get; None when unknown."""
        return None if self.cores is None else self.cores - len(self.reserved_cores)

    def shape(self) -> NodeShape | None:
        """Return the shape that the mapper works with; None when the number of cores is unknown.

        Raises:
            ValueError: Core ids do not exist, the map of GPUs has another length, or no core is left.
        """
        if self.cores is None:
            return None
        return NodeShape(
            cores=self.cores,
            gpus=self.gpu_count,
            memory_bytes=self.memory or 0,
            reserved_cores=self.reserved_cores,
            numa=self.numa,
            gpu_cores=self.gpus.cores if self.gpus else (),
            gpu_vendor=self.gpus.vendor if self.gpus else "nvidia",
        )


class Nodes(Block):
    """All kinds of nodes; the first is the one that is meant where none is named."""

    kinds: tuple[NodeKind, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names = [kind.name for kind in self.kinds]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two kinds of nodes are called {twice[0]!r}; give each a name of its own")
        return self


class Sharing(StrEnum):
    """Whether other jobs run on a job's nodes."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
