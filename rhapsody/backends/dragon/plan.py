"""How Dragon is to be run, as the session tells a warden."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Role(StrEnum):
    """What part of Dragon a warden keeps."""

    ALONE = "alone"
    """All of it, on one host."""
    FIRST = "first"
    """The front end, and its own host's part; the head program is there, too."""
    OTHER = "other"
    """Its own host's part."""


class Plan(NamedTuple):
    """How Dragon is to be run.

    Attributes:
        log: File that gets what Dragon itself writes.
        env: Variables for it.
        role: Of the warden.
        hosts: For the first of several, what `rhapsody.backends.dragon.hosts.DragonHost` says of each, itself first.
        ssh: Path of the `ssh` to other hosts.
        port: For the agents between hosts; the same on all.
    """

    log: str
    env: dict[str, str]
    role: str = Role.ALONE.value
    hosts: tuple[tuple[object, ...], ...] = ()
    ssh: str = ""
    port: int = 0
