"""What PBS says of a cluster: `qstat -Qf` and `pbsnodes -a`, both as JSON."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from rhapsody.deploy.sites.probe_ask import ask, kind_names
from rhapsody.deploy.sites.values import format_duration
from rhapsody.errors import BackendError
from rhapsody.session.deadline import parse_walltime

_TRUE = "True"

Record = dict[str, Any]


def blocks(about: dict[str, Any], host: str) -> dict[str, Any]:
    """Return the blocks of a profile that PBS can answer for.

    Args:
        about: What each block says of when and how sure.
        host: Where it is asked.

    Raises:
        BackendError: PBS does not answer, or not in JSON.
    """
    answer = _ask_json("qstat", "-Q", "-f", "-F", "json")
    nodes = _ask_json("pbsnodes", "-a", "-F", "json").get("nodes", {})
    scheduler = {
        "source": f"qstat -Qf, on {host}",
        **about,
        "kind": "pbs",
        "version": str(answer.get("pbs_version", "?")),
    }
    scheduler["unknown"] = ["whose mpiexec it is, and how it is kept from binding", "whether jobs may be requeued"]
    queues = {"source": f"qstat -Qf, on {host}", **about, "unknown": ["the default queue"], "open": False}
    queues["entries"] = _queues(answer.get("Queue", {}))
    found: dict[str, Any] = {"scheduler": scheduler}
    if nodes:
        found["nodes"] = {"source": f"pbsnodes -a, on {host}", **about, **_nodes(nodes)}
    return {**found, "queues": queues}


def _ask_json(*command: str) -> Record:
    text = ask(*command)
    try:
        found = json.loads(text, strict=False)
    except ValueError as exc:
        raise BackendError(f"`{' '.join(command)}` did not answer in JSON: {exc}") from exc
    if not isinstance(found, dict):
        raise BackendError(f"`{' '.join(command)}` answered with something else than an object")
    return found


def _nodes(nodes: dict[str, Record]) -> dict[str, Any]:
    """Return the kinds of nodes; PBS may count hardware threads as CPUs, and does not say whose GPUs they are."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, node in nodes.items():
        has = node.get("resources_available", {})
        groups.setdefault((str(has.get("ncpus", "")), str(has.get("mem", "")), str(has.get("ngpus", 0))), []).append(
            name
        )
    kinds = []
    for name, ((cpus, memory, gpus), hosts) in zip(kind_names(list(groups.values())), groups.items(), strict=True):
        kind: dict[str, Any] = {"name": name, "count": len(hosts)}
        if memory.endswith("kb") and memory[:-2].isdecimal():
            kind["memory"] = f"{int(memory[:-2]) >> 10}MiB"
        words = [f"PBS counts {cpus} CPUs, which may be hardware threads; add cores and smt."]
        if gpus.isdecimal() and int(gpus):
            words.append(f"PBS counts {gpus} GPUs; add gpus with their vendor.")
        kinds.append({**kind, "notes": words})
    return {"unknown": ["cores, hardware threads, GPUs and NUMA domains"], "kinds": kinds}


def _queues(queues: dict[str, Record]) -> list[dict[str, Any]]:
    usable = {name: queue for name, queue in queues.items() if queue.get("enabled") == queue.get("started") == _TRUE}
    routes = {name: queue for name, queue in usable.items() if queue.get("queue_type") == "Route"}
    entries, behind = [], set()
    for name, queue in routes.items():
        names = [each for each in str(queue.get("route_destinations", "")).split(",") if each in usable]
        closed = [each for each in names if usable[each].get("from_route_only") == _TRUE and each not in behind]
        behind.update(closed)
        if closed:
            entries.append({"name": name, "bins": [{"name": each, **_limits(usable[each])} for each in closed]})
    for name, queue in usable.items():
        if name in behind or name in routes or queue.get("from_route_only") == _TRUE:
            continue
        shortest = _walltime(queue.get("resources_min", {}))
        entries.append({"name": name, **_limits(queue), **({"min_walltime": shortest} if shortest else {})})
    return entries


def _limits(queue: Record) -> dict[str, Any]:
    """Return the least and most nodes and the longest walltime, as far as PBS has limits."""
    most, least = queue.get("resources_max", {}), queue.get("resources_min", {})
    found: dict[str, Any] = {}
    if str(least.get("nodect", "")).isdecimal() and int(least["nodect"]) > 0:
        found["min_nodes"] = int(least["nodect"])
    if str(most.get("nodect", "")).isdecimal() and int(most["nodect"]) > 0:
        found["max_nodes"] = int(most["nodect"])
    if longest := _walltime(most):
        found["max_walltime"] = longest
    return found


def _walltime(limits: Record) -> str | None:
    text = str(limits.get("walltime", ""))
    if not text.strip("0:"):
        return None
    return format_duration(timedelta(seconds=parse_walltime(text)))
