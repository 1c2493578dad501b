"""The hosts of one Dragon runtime: what it has to know of each, found out on the host itself.

It is written into the file that Dragon calls a network configuration, so that it need not ask, and its head program
runs where the session is.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends import bootstrap
from rhapsody.backends.dragon import surroundings
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

OVERLAY_PORT = 6565
"""First that is tried. Source: dragonhpc 0.15.0, `facts.DEFAULT_OVERLAY_NETWORK_PORT`."""
PREFIXES = (r"^(hsn|ipogif|ib|eth|bridge|en)\w+$", r"^(?!lo$).+$")
"""Names of network interfaces, the best first. Source: dragonhpc 0.15.0, `facts.DEFAULT_TRANSPORT_NETIF`; any other."""
LOOK_LIMIT_S = 60.0
_STATE_ACTIVE = 4
OTHERS = "others.json"
"""File in the first host's pool's folder that tells the head program of the others: name and pool's folder of each."""


class DragonHost(NamedTuple):
    """A host as Dragon has to know it.

    Attributes:
        node: Name of the node in the allocation: how the `ssh` reaches it.
        folder: The pool's private folder there.
        name: What the host calls itself: how Dragon places processes on it.
        addresses: With ports, where it listens.
        host_id: Dragon's number for it.
        prefix: Which network interfaces count.
        free: Bytes free in its shared memory.
        cpus: That may be used.
    """

    node: str
    folder: str
    name: str
    addresses: tuple[str, ...]
    host_id: int
    prefix: str
    free: int
    cpus: int


async def look(node: str, folder: str) -> DragonHost:
    """Return what this host is to Dragon; it is asked in a process of its own, since importing it takes half a second.

    Args:
        node: Name of the node in the allocation.
        folder: The pool's private folder.

    Raises:
        BackendError: Dragon cannot say it, or there is no shared memory.
    """
    free = surroundings.free_shared_memory()
    process = await asyncio.create_subprocess_exec(
        *bootstrap.command("rhapsody-look", "rhapsody.backends.dragon.hosts"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(LOOK_LIMIT_S):
            said, complaint = await process.communicate()
    except TimeoutError as exc:
        raise BackendError(f"{node}: Dragon did not say within {LOOK_LIMIT_S:g} s how it is reached there") from exc
    finally:
        if process.returncode is None:  # it took too long, or this was cancelled
            process.kill()
            await process.wait()
    try:
        found = json.loads(said.decode().strip().rpartition("\n")[2])
    except ValueError as exc:
        last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
        raise BackendError(f"{node}: Dragon cannot say how it is reached there: {last}") from exc
    cpus = len(os.sched_getaffinity(0))
    addresses = tuple(found["addresses"])
    return DragonHost(node, folder, found["name"], addresses, found["host_id"], found["prefix"], free, cpus)


def network_configuration(hosts: Sequence[DragonHost]) -> bytes:
    """Return the file that Dragon reads with `--network-config`; the first host gets the head program."""
    return json.dumps(
        {
            str(rank): {
                "state": _STATE_ACTIVE,
                "name": host.name,
                "host_name": host.name,
                "ip_addrs": list(host.addresses),
                "host_id": host.host_id,
                "is_primary": rank == 0,
            }
            for rank, host in enumerate(hosts)
        },
        indent=2,
    ).encode()


def main() -> None:
    """Print, inside a process of its own, what Dragon says of this host."""
    from dragon.infrastructure.node_desc import NodeDescriptor  # noqa: PLC0415 - only here: it takes long

    problem: Exception | None = None
    for prefix in PREFIXES:
        try:
            found = NodeDescriptor.get_local_node_network_conf(prefix, OVERLAY_PORT).get_sdict()
        except Exception as exc:  # noqa: BLE001 - whatever Dragon raises: the next prefix may do
            problem = exc
            continue
        said = {"name": found["host_name"], "addresses": found["ip_addrs"], "host_id": found["host_id"]}
        sys.stdout.write(json.dumps(said | {"prefix": prefix}) + "\n")
        return
    sys.exit(f"no network interface can be used: {problem}")
