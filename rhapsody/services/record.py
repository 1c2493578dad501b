"""How the services of a run are, for whoever looks at it: a file for each in the run folder, `services/NAME.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from rhapsody.model.allocation import FrozenModel
from rhapsody.node.files import write_whole
from rhapsody.services.states import ReplicaState, ServiceState

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = "services"
"""Of the run folder."""


class ReplicaRecord(FrozenModel):
    """One replica.

    Attributes:
        number: From 0.
        state: How it is.
        node: Where it runs; empty unless it is ready or drains.
        url: Where it listens; empty likewise.
        restarts: How often it was started again.
        reason: Why it is in its state; empty if all is well.
    """

    number: int
    state: ReplicaState
    node: str = ""
    url: str = ""
    restarts: int = 0
    reason: str = ""


class ServiceRecord(FrozenModel):
    """One service.

    Attributes:
        schema_version: In JSON `schema`; 1.
        name: Its own.
        state: How it is.
        reason: Why; empty if all is well.
        url: What its clients take; empty before it was ready.
        models: That it serves.
        replicas: In their order.
        changed_ns: When this was written, since the epoch.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    state: ServiceState
    reason: str = ""
    url: str = ""
    models: tuple[str, ...] = ()
    replicas: tuple[ReplicaRecord, ...] = ()
    changed_ns: int = 0


def write_record(run_dir: Path, record: ServiceRecord) -> None:
    """Tell how a service is.

    Raises:
        OSError: The file cannot be written.
    """
    folder = run_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / f"{record.name}.json", f"{record.model_dump_json(by_alias=True)}\n".encode())


def read_records(run_dir: Path) -> list[ServiceRecord]:
    """Return how the services of a run are, by name; what cannot be read is left out."""
    found = []
    for path in sorted((run_dir / FOLDER).glob("*.json")):
        try:
            found.append(ServiceRecord.model_validate_json(path.read_bytes()))
        except (OSError, ValidationError):
            continue  # just replaced, or of another version
    return found
