"""RHAPSODY: hybrid AI-HPC campaigns, many runtimes in one allocation.

The map, from the outside in. Imports go downwards only:

    cli           commands: parse, call, print
    deploy        sites, batch scripts, jobs of batch systems, images, doctor
    experiments   benchmarks against peers
    session       the public façade; wires the parts together
    services      what stays: replicas, readiness, restarts, endpoints; vLLM, training
    inference     requests to models: router, gateway, AI workers, stand-in engine
    scheduling    what runs next, and where: dependencies, ready queue, mapper
    backends      one runtime each; `pool` is the worker pool of a node
    telemetry     the journal: every change of state, before anybody hears of it; metrics, folded from it
    node          the agent on every node of a job, the `ssh` that talks to it, and keeping hold of processes
    abc           the contracts between the parts
    model         tasks, resources, policies, allocations, events; no I/O
    errors        everything that is raised

A task's way: `Session.submit` → `Scheduler` → `Mapper.place` → `Backend.launch` → worker, and back as reports.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rhapsody.backends.dragon.backend import DragonBackend
    from rhapsody.backends.dragon.backend import DragonBackend as DragonExecutionBackend
    from rhapsody.backends.local import LocalBackend
    from rhapsody.backends.local import LocalBackend as ConcurrentExecutionBackend
    from rhapsody.errors import (
        BackendError,
        JournalError,
        RhapsodyError,
        ServiceError,
        SessionClosedError,
        SpecError,
        TaskCanceled,
        TaskError,
        TaskFailed,
        TaskUnknown,
    )
    from rhapsody.model.ai import AITask
    from rhapsody.model.allocation import Allocation, Node, NodeShape
    from rhapsody.model.array import ArrayTask
    from rhapsody.model.event import Event, State
    from rhapsody.model.outcome import Cause, Completed, Failure
    from rhapsody.model.policy import Policy, Retry
    from rhapsody.model.resources import Placement, Resources, Slot
    from rhapsody.model.task import ComputeTask, Task
    from rhapsody.model.time_left import time_left
    from rhapsody.services.probes import HttpProbe, LogProbe, PortProbe
    from rhapsody.services.restart import Restart
    from rhapsody.services.service import ServiceTask
    from rhapsody.services.states import ServiceState
    from rhapsody.session.session import Session

__version__ = "0.1.0"

_HOMES = {
    "Session": "rhapsody.session.session",
    "ServiceTask": "rhapsody.services.service",
    "ServiceState": "rhapsody.services.states",
    "Restart": "rhapsody.services.restart",
    "HttpProbe": "rhapsody.services.probes",
    "LogProbe": "rhapsody.services.probes",
    "PortProbe": "rhapsody.services.probes",
    "ComputeTask": "rhapsody.model.task",
    "Task": "rhapsody.model.task",
    "ArrayTask": "rhapsody.model.array",
    "AITask": "rhapsody.model.ai",
    "Resources": "rhapsody.model.resources",
    "Slot": "rhapsody.model.resources",
    "Placement": "rhapsody.model.resources",
    "Policy": "rhapsody.model.policy",
    "Retry": "rhapsody.model.policy",
    "Allocation": "rhapsody.model.allocation",
    "Node": "rhapsody.model.allocation",
    "NodeShape": "rhapsody.model.allocation",
    "State": "rhapsody.model.event",
    "Event": "rhapsody.model.event",
    "Completed": "rhapsody.model.outcome",
    "Cause": "rhapsody.model.outcome",
    "Failure": "rhapsody.model.outcome",
    "LocalBackend": "rhapsody.backends.local",
    "DragonBackend": "rhapsody.backends.dragon.backend",
    "RhapsodyError": "rhapsody.errors",
    "ServiceError": "rhapsody.errors",
    "SpecError": "rhapsody.errors",
    "BackendError": "rhapsody.errors",
    "JournalError": "rhapsody.errors",
    "SessionClosedError": "rhapsody.errors",
    "TaskError": "rhapsody.errors",
    "TaskFailed": "rhapsody.errors",
    "TaskCanceled": "rhapsody.errors",
    "TaskUnknown": "rhapsody.errors",
    "time_left": "rhapsody.model.time_left",
}
"""Where each public name lives; imported when first used, so that workers and `--help` start quickly."""
_AS_RHAPSODY_PY_CALLS_IT = {"ConcurrentExecutionBackend": "LocalBackend", "DragonExecutionBackend": "DragonBackend"}

__all__ = [
    "AITask",
    "Allocation",
    "ArrayTask",
    "BackendError",
    "Cause",
    "Completed",
    "ComputeTask",
    "ConcurrentExecutionBackend",
    "DragonBackend",
    "DragonExecutionBackend",
    "Event",
    "Failure",
    "HttpProbe",
    "JournalError",
    "LocalBackend",
    "LogProbe",
    "Node",
    "NodeShape",
    "Placement",
    "Policy",
    "PortProbe",
    "Resources",
    "Restart",
    "Retry",
    "RhapsodyError",
    "ServiceError",
    "ServiceState",
    "ServiceTask",
    "Session",
    "SessionClosedError",
    "Slot",
    "SpecError",
    "State",
    "Task",
    "TaskCanceled",
    "TaskError",
    "TaskFailed",
    "TaskUnknown",
    "time_left",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - any of the public names
    name = _AS_RHAPSODY_PY_CALLS_IT.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
