"""What Slurm says of a cluster: `scontrol show config | partition | node`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

from rhapsody.deploy.sites.probe_ask import ask, kind_names, vendor_of
from rhapsody.deploy.sites.values import format_duration
from rhapsody.session.deadline import parse_walltime

_NONE = {"UNLIMITED", "NONE", "INFINITE", "(null)", "N/A", ""}
_GRES_GPU = re.compile(r"gpu(?::([A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*))?:(\d+)")

Fields = dict[str, str]


def blocks(about: dict[str, Any], host: str) -> dict[str, Any]:
    """Return the blocks of a profile that Slurm can answer for.

    Args:
        about: What each block says of when and how sure.
        host: Where it is asked.

    Raises:
        BackendError: Slurm does not answer.
    """
    config = dict(_pair(line) for line in ask("scontrol", "show", "config").splitlines() if "=" in line)
    partitions = [_fields(line) for line in ask("scontrol", "show", "partition", "--oneliner").splitlines() if line]
    nodes = [_fields(line) for line in ask("scontrol", "show", "node", "--oneliner").splitlines() if line]
    kinds, kind_of, unknown = _kinds(nodes)
    scheduler = {"source": f"scontrol show config, on {host}", **about, "unknown": [], "kind": "slurm"}
    scheduler["version"] = config.get("SLURM_VERSION", "?")
    if config.get("JobRequeue", "") in {"0", "1"}:
        scheduler["requeue"] = config["JobRequeue"] == "1"
    found: dict[str, Any] = {"scheduler": scheduler}
    if kinds:
        found["nodes"] = {"source": f"scontrol show node, on {host}", **about, "unknown": unknown, "kinds": kinds}
    return {**found, "queues": _queues(partitions, nodes, kind_of, {"source": f"scontrol, on {host}", **about})}


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


def _fields(line: str) -> Fields:
    """Return the fields of a line such as `NodeName=a Sockets=2`; of a value with spaces only the first word."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _kinds(nodes: list[Fields]) -> tuple[list[dict[str, Any]], dict[str, str], list[str]]:
    """Return the kinds of nodes, the kind of each node by its name, and what is not known."""
    keys = ("Sockets", "CoresPerSocket", "ThreadsPerCore", "RealMemory", "Gres", "ActiveFeatures")
    groups: dict[tuple[str, ...], list[str]] = {}
    for node in nodes:
        groups.setdefault(tuple(node.get(key, "") for key in keys), []).append(node["NodeName"])
    unknown = ["which cores are near which GPU, and NUMA domains", "network cards, and disks of the nodes"]
    kinds, kind_of = [], {}
    for name, (values, hosts) in zip(kind_names(list(groups.values())), groups.items(), strict=True):
        kind, missing = _kind(name, len(hosts), dict(zip(keys, values, strict=True)))
        kinds.append(kind)
        unknown += missing
        kind_of.update(dict.fromkeys(hosts, name))
    return kinds, kind_of, unknown


def _kind(name: str, count: int, node: Fields) -> tuple[dict[str, Any], list[str]]:
    kind: dict[str, Any] = {"name": name, "count": count}
    unknown = []
    if node["Sockets"].isdecimal() and node["CoresPerSocket"].isdecimal():
        kind["cores"] = int(node["Sockets"]) * int(node["CoresPerSocket"])
    if node["ThreadsPerCore"].isdecimal():
        kind["smt"] = int(node["ThreadsPerCore"])
    if node["RealMemory"].isdecimal():
        kind["memory"] = f"{node['RealMemory']}MiB"  # Source: slurm.conf(5), RealMemory
    if gpus := _GRES_GPU.match(node["Gres"]):
        model, vendor = gpus[1], vendor_of(gpus[1] or "")
        if vendor:
            kind["gpus"] = {"count": int(gpus[2]), "vendor": vendor, "model": model}
        else:
            unknown.append(f"whose GPUs {name} has: Gres={node['Gres']}")
    if node["ActiveFeatures"] not in _NONE:
        kind["notes"] = [f"Features: {node['ActiveFeatures']}; one may have to be named as constraint."]
    return kind, unknown


def _queues(
    partitions: list[Fields], nodes: list[Fields], kind_of: dict[str, str], about: dict[str, Any]
) -> dict[str, Any]:
    entries, default = [], None
    for partition in partitions:
        if partition.get("State") != "UP" or partition.get("RootOnly") == "YES":
            continue
        name = partition["PartitionName"]
        inside = [node for node in nodes if name in node.get("Partitions", "").split(",")]
        kinds = dict.fromkeys(kind_of[node["NodeName"]] for node in inside)
        entries.append(_queue(partition, list(kinds)))
        default = name if partition.get("Default") == "YES" else default
    block = {**about, "unknown": ["limits of QOS: sacctmgr show qos", "which accounts may use which queue"]}
    return {**block, "open": False, "default": default, "entries": entries}


def _queue(partition: Fields, kinds: list[str]) -> dict[str, Any]:
    name = partition["PartitionName"]
    queue: dict[str, Any] = {"name": name, "partition": name, "node_kinds": kinds}
    least, most = partition.get("MinNodes", ""), partition.get("MaxNodes", "")
    most = most if most.isdecimal() else partition.get("TotalNodes", "")
    if least.isdecimal() and int(least) > 1:
        queue["min_nodes"] = int(least)
    if most.isdecimal() and int(most) >= int(queue.get("min_nodes", 1)):
        queue["max_nodes"] = int(most)
    for key, field in (("max_walltime", "MaxTime"), ("default_walltime", "DefaultTime")):
        if (text := partition.get(field, "")) not in _NONE:
            queue[key] = format_duration(timedelta(seconds=parse_walltime(text)))
    if partition.get("OverSubscribe", "").startswith("EXCLUSIVE"):
        queue["sharing"] = "exclusive"
    return queue
