"""What agents tell each other about themselves, and how it is written down for the `ssh`."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec

from rhapsody.node.machine import Machine
from rhapsody.node.protocol import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Host(msgspec.Struct, frozen=True):
    """A node of the job and how its agent is reached.

    Attributes:
        rank: Of the node.
        name: The first of its names.
        names: Under which it is found besides.
        address: As rank 0 sees it; empty for rank 0's own machine.
        port: Where its agent listens.
        machine: What it offers.
    """

    rank: int
    name: str
    names: tuple[str, ...]
    address: str
    port: int
    machine: Machine


class Join(msgspec.Struct, frozen=True):
    """An agent's first word to rank 0.

    Attributes:
        rank: Of its node.
        nodes: How many it thinks there are.
        job: The batch system's id, so that agents of two jobs on one run folder do not mix.
        life: Random; another one under the same rank was started anew.
        names: Of its node, the best first.
        port: Where it listens.
        machine: What its node offers.
    """

    rank: int
    nodes: int
    job: str
    life: str
    names: tuple[str, ...]
    port: int
    machine: Machine


class Meeting(msgspec.Struct, frozen=True):
    """Where rank 0 is found: `deploy/nodes/0.json` of the run folder.

    Attributes:
        name: Of the node.
        addresses: All that it has.
        port: Where its agent listens.
        job: As in `Join`.
    """

    name: str
    addresses: tuple[str, ...]
    port: int
    job: str


def pack_hosts(hosts: Iterable[Host]) -> bytes:
    """Return nodes as they travel."""
    return zlib.compress(msgspec.json.encode(list(hosts)))


def unpack_hosts(payload: bytes) -> list[Host]:
    """Return the nodes of such bytes.

    Raises:
        ProtocolError: They are none.
    """
    try:
        return msgspec.json.decode(zlib.decompress(payload), type=list[Host])
    except (zlib.error, msgspec.MsgspecError) as exc:
        raise ProtocolError(f"a list of nodes that cannot be read: {exc}") from exc


def parse_join(payload: bytes) -> Join:
    """Return what an agent says of itself.

    Raises:
        ProtocolError: It cannot be read.
    """
    try:
        return msgspec.json.decode(payload, type=Join)
    except msgspec.MsgspecError as exc:
        raise ProtocolError(f"a request to join that cannot be read: {exc}") from exc


def render_hosts(hosts: Iterable[Host], own_rank: int, leader: str) -> str:
    """Return the text in which the `ssh` of one node looks up where others are.

    A line for each name of a node: name, address, port and rank. Where a name is given twice the first line counts, so
    numbers, which stand for ranks, come last.

    Args:
        hosts: All nodes.
        own_rank: Of the node that it is for.
        leader: Rank 0's address as seen from there.
    """
    names: list[str] = []
    ranks: list[str] = []
    for host in sorted(hosts, key=lambda host: host.rank):
        address = "127.0.0.1" if host.rank == own_rank else host.address or leader
        own = LOCAL_NAMES if host.rank == own_rank else ()
        end = f" {address} {host.port} {host.rank}\n"
        known = (host.name, *host.names, host.address, *own)
        names.extend(name.lower() + end for name in dict.fromkeys(known) if name)
        ranks.append(f"{host.rank}{end}")
    return "".join(names + ranks)
