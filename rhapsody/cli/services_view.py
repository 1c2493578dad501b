"""How the services of a run are, for people and for programs: a part of what `rhapsody status` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from rhapsody.services.states import ReplicaState, ServiceState
from rhapsody.session.status import Condition

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.services.record import ServiceRecord
    from rhapsody.session.status import RunStatus

_COLOURS = {
    ServiceState.READY: "green",
    ServiceState.DONE: "green",
    ServiceState.STARTING: "yellow",
    ServiceState.FAILED: "red",
}


def service_facts(found: RunStatus) -> Iterator[tuple[str, str]]:
    """Yield the lines on services; of a run that is over, those that failed."""
    reachable = {endpoint.name: endpoint for endpoint in found.services}
    for record in found.kept:
        if found.condition is not Condition.RUNNING and record.state is not ServiceState.FAILED:
            continue
        yield "service", _summary(record)
        if record.name in reachable:
            yield "", _way(found, record.name, reachable.pop(record.name).url)
        for replica in record.replicas:
            if replica.reason and record.state is not ServiceState.STOPPED:
                yield "", f"replica {replica.number} is {replica.state}: {replica.reason.partition(chr(10))[0]}"
    for name, endpoint in reachable.items():
        yield "service", f"{name} {_way(found, name, endpoint.url)}"


def _summary(record: ServiceRecord) -> str:
    ready = sum(replica.state is ReplicaState.READY for replica in record.replicas)
    restarts = sum(replica.restarts for replica in record.replicas)
    again = f", started again {restarts} time{'s' if restarts > 1 else ''}" if restarts else ""
    state = click.style(str(record.state), fg=_COLOURS.get(record.state))
    return f"{record.name} {state}, {ready} of {len(record.replicas)} replicas ready{again}"


def _way(found: RunStatus, name: str, url: str) -> str:
    return f"at {url}; from elsewhere: rhapsody connect {found.uid} {name}"


def service_dicts(found: RunStatus) -> list[dict[str, Any]]:
    """Return services of what JSON can say; null where something is not known or not there."""
    endpoints = {endpoint.name: endpoint for endpoint in found.services}
    records = {record.name: record for record in found.kept}
    services = []
    for name in sorted(endpoints.keys() | records.keys()):
        endpoint, record = endpoints.get(name), records.get(name)
        reached = endpoint or record
        services.append(
            {
                "name": name,
                "state": str(record.state) if record is not None else None,
                "reason": (record.reason or None) if record is not None else None,
                "url": endpoint.url if endpoint is not None else None,
                "node": endpoint.node if endpoint is not None else None,
                "models": list(reached.models) if reached is not None else [],
                "replicas": [each.model_dump(mode="json") for each in record.replicas] if record is not None else [],
            }
        )
    return services
