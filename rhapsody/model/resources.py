"""A request for resources, the slots that answer it, and the placement they form.

Request → slot → placement: what is asked → concrete cores and GPUs of one node → one slot per rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic import ByteSize, TypeAdapter, ValidationError

from rhapsody.errors import SpecError

_BYTES: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def parse_bytes(value: int | str, where: str) -> int:
    """Return a size in bytes from a number of bytes or a text such as `"2GiB"`.

    Raises:
        SpecError: It is neither, or negative.
    """
    try:
        size = int(_BYTES.validate_python(value))
    except ValidationError as exc:
        msg = f"{where}={value!r} is no size; write bytes as a number or a text such as '2GiB'"
        raise SpecError(msg) from exc
    if size < 0:
        raise SpecError(f"{where}={value!r} is negative")
    return size


@dataclass(frozen=True, slots=True)
class Resources:
    """What one task asks for. Immutable: make one and give it to many tasks.

    Attributes:
        ranks: Processes of the task; more than one starts it through MPI.
        cores_per_rank: Cores bound to each rank.
        gpus_per_rank: GPUs visible to each rank, and to no other.
        memory_per_rank: Bytes per rank; a text such as "2GiB" is understood. 0 asks for nothing and reserves nothing.
        ranks_per_node: At most so many ranks on one node; None leaves it to the placement policy.
        exclusive: Whole nodes: nothing else runs on them meanwhile.
        mpi: Start through MPI even with one rank.

    Raises:
        SpecError: A count is negative, zero where it must not be, or no whole number.
    """

    ranks: int = 1
    cores_per_rank: int = 1
    gpus_per_rank: int = 0
    memory_per_rank: int | str = 0
    ranks_per_node: int | None = None
    exclusive: bool = False
    mpi: bool = False
    memory_bytes: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require_count("ranks", self.ranks, least=1)
        _require_count("cores_per_rank", self.cores_per_rank, least=1)
        _require_count("gpus_per_rank", self.gpus_per_rank, least=0)
        if self.ranks_per_node is not None:
            _require_count("ranks_per_node", self.ranks_per_node, least=1)
        size = parse_bytes(self.memory_per_rank, "Resources.memory_per_rank")
        object.__setattr__(self, "memory_bytes", size)

    @property
    def is_mpi(self) -> bool:
        """Whether the task is started through MPI."""
        return self.mpi or self.ranks > 1

    @property
    def is_single_core(self) -> bool:
        """Whether one core of any node, and nothing else, is all it takes."""
        return self == SERIAL

    @property
    def task_type(self) -> str:
        """Name of the task type for heterogeneity width: `(serial|MPI, CPU|GPU, ranks)`."""
        kind = "mpi" if self.is_mpi else "serial"
        return f"{kind}-{'gpu' if self.gpus_per_rank else 'cpu'}-{self.ranks}"

    def __str__(self) -> str:
        parts = [_count(self.ranks, "rank"), f"{_count(self.cores_per_rank, 'core')} per rank"]
        if self.gpus_per_rank:
            parts.append(f"{_count(self.gpus_per_rank, 'GPU')} per rank")
        if self.memory_bytes:
            parts.append(f"{ByteSize(self.memory_bytes).human_readable()} per rank")
        if self.ranks_per_node is not None:
            parts.append(f"at most {self.ranks_per_node} per node")
        if self.exclusive:
            parts.append("exclusive nodes")
        return ", ".join(parts)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _require_count(name: str, value: object, *, least: int) -> None:
    if type(value) is not int:
        raise SpecError(f"Resources.{name}={value!r} must be a whole number")
    if value < least:
        raise SpecError(f"Resources.{name}={value} must be at least {least}")


SERIAL = Resources()
"""One rank on one core: what a task asks for unless told otherwise."""


class Slot(NamedTuple):
    """Cores and GPUs of one node, bound to one rank.

    Attributes:
        node: Index of the node in the allocation.
        cores: Core ids of that node, ascending.
        gpus: GPU ids of that node, ascending.
    """

    node: int
    cores: tuple[int, ...]
    gpus: tuple[int, ...] = ()


class Placement:
    """Where a task runs: one slot per rank, in rank order.

    Held from `Mapper.place` to `Mapper.release`. Several tasks may use one placement after another.
    """

    __slots__ = ("memory_bytes", "nodes_held", "shared", "slots")

    def __init__(
        self,
        slots: tuple[Slot, ...],
        memory_bytes: int = 0,
        nodes_held: tuple[int, ...] = (),
        *,
        shared: bool = False,
    ) -> None:
        self.slots = slots
        self.memory_bytes = memory_bytes
        """Bytes reserved per rank."""
        self.nodes_held = nodes_held
        """Nodes held whole, for an exclusive request."""
        self.shared = shared
        """Whether the cores come from the layer that oversubscribing tasks share."""

    @property
    def nodes(self) -> tuple[int, ...]:
        """Indices of the nodes touched, ascending."""
        return tuple(sorted({slot.node for slot in self.slots}))

    def __repr__(self) -> str:
        return f"Placement({', '.join(map(repr, self.slots))})"
