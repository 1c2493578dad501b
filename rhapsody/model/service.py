"""What services are to the scheduler: gates, which open when a service is ready, and tasks that are its replicas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from typing_extensions import override

from rhapsody.errors import SpecError
from rhapsody.model.event import State
from rhapsody.model.resources import SERIAL
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task

if TYPE_CHECKING:
    from collections.abc import Mapping


class Gate(Task):
    """Stands for "the service is ready" among what tasks depend on. It runs nothing and is counted nowhere.

    Whoever supervises the service says what state it is in: WAITING until the service is ready, DONE while it is,
    WAITING again while it is not for a time, FAILED or CANCELED once it has ended.

    Args:
        name: Of the service.

    Attributes:
        name: Of the service.
        variables: What tasks that need it find in their environment; complete when the gate opens.
    """

    __slots__ = ("name", "variables")

    kind = "service"

    def __init__(self, name: str) -> None:
        super().__init__(None, SERIAL, 0, DEFAULT_OPTIONS)
        self.name = name
        self.variables: Mapping[str, str] = {}

    @property
    @override
    def uid(self) -> str:
        """Names the service."""
        return f"service.{self.name}"

    @property
    def is_open(self) -> bool:
        """Whether the service is ready."""
        return self.state is State.DONE


class Needed(Protocol):
    """What a task can need: a service."""

    @property
    def name(self) -> str:
        """Of the service."""

    @property
    def gate(self) -> Gate:
        """What tasks wait for."""


def gates_of(needs: object) -> tuple[Gate, ...]:
    """Return the gates of services, each once.

    Raises:
        SpecError: Something is no service.
    """
    services = [needs] if hasattr(needs, "gate") else needs
    if isinstance(services, str) or not isinstance(services, Iterable):
        raise SpecError(f"needs={needs!r} is no list of services; write needs=[service]")
    gates = []
    for service in services:
        gate = getattr(service, "gate", None)
        if not isinstance(gate, Gate):
            raise SpecError(f"needs={service!r}: only services can be needed, as session.start returns them")
        gates.append(gate)
    return tuple(dict.fromkeys(gates))


class ReplicaTask(ComputeTask):
    """One start of one replica of a service: a program that takes slots as any task, and stays.

    It is made by whoever supervises the service. It counts as no task: not in the session's counts, and not in the
    metrics. It is never tried again as it is: the supervisor starts another.

    Args:
        service: Name of the service.
        replica: Which of its replicas, from 0.
        start: Which start of this replica, from 1.
        options: As of any `ComputeTask` that runs an executable.
    """

    __slots__ = ("service",)

    kind = "service"

    def __init__(self, service: str, replica: int, start: int, **options: Any) -> None:  # noqa: ANN401 - as ComputeTask takes them
        super().__init__(**options)
        self.service = service
        self._uid = f"service.{service}.{replica}.{start}"

    @property
    @override
    def label(self) -> str:
        """What runs, for people: the service."""
        return self.service
