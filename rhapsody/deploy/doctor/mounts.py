"""On which file system does a path lie, and do other nodes see it?"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile

LUSTRE = "lustre"
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_ON_DISK = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "squashfs"})
_OF_THE_NODE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - looked at, not used
_SHARED = re.compile(
    r"nfs|lustre|gpfs|beegfs|ceph|fuse|wekafs|panfs|pvfs|orangefs|dvs|cifs|smb|afs|glusterfs|9p|virtiofs"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """A file system that is mounted.

    Attributes:
        point: Where.
        kind: As the kernel calls it.
    """

    point: Path
    kind: str


class Reach(StrEnum):
    """Who sees a path."""

    ALL_NODES = "all nodes"
    THIS_NODE = "this node"
    """It is in memory, or in a folder that each node has for itself."""
    LIKELY_THIS_NODE = "likely this node"
    """It is on a disk of this machine, which others see only if it is exported."""
    UNKNOWN = "unknown"


class Place(NamedTuple):
    """Where a path lies.

    Attributes:
        mount: None when /proc does not tell.
        reach: Who sees it.
        words: The same, for people.
    """

    mount: Mount | None
    reach: Reach
    words: str


def place_of(path: Path, profile: SiteProfile, patient: Patient) -> Place:
    """Return where a path lies, which need not exist; links are followed."""
    path = real(path)
    mount = mount_of(path, patient.root)
    if mount is None:
        return Place(None, Reach.UNKNOWN, "a file system that /proc/mounts does not name")
    words = f"{mount.kind} at {mount.point}"
    if mount.kind in _IN_MEMORY:
        return Place(mount, Reach.THIS_NODE, f"{words}, which is memory of this node")
    if _SHARED.match(mount.kind):
        return Place(mount, Reach.ALL_NODES, words)
    for folder in (*_OF_THE_NODE, *_local_disks(profile, patient)):
        if path.is_relative_to(folder):
            return Place(mount, Reach.THIS_NODE, f"{words}; each node has its own {folder}")
    if mount.kind in _ON_DISK:
        return Place(mount, Reach.LIKELY_THIS_NODE, f"{words}, a disk of this machine")
    return Place(mount, Reach.UNKNOWN, words)


def real(path: Path) -> Path:
    """Return where a path leads, which need not exist; of links that go round in a circle something of it."""
    return Path(os.path.realpath(path))  # `Path.resolve` raises for circles


def mount_of(path: Path, root: Path) -> Mount | None:
    """Return the file system of an absolute path without links; None when /proc does not tell."""
    try:
        lines = (root / "proc/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    found: Mount | None = None
    for line in lines:
        _, point, kind, *_ = [*line.split(" "), "", "", ""]
        folder = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), point))
        deeper = found is None or len(folder.parts) >= len(
            found.point.parts
        )  # of two at one place the later one counts
        if deeper and path.is_relative_to(folder):
            found = Mount(folder, kind)
    return found


def expanded(text: str, patient: Patient) -> str:
    """Return a path of a profile with `$VARIABLES` and `{user}` filled in; what is not known stays as it is."""
    account = patient.account or "{account}"
    return Template(text).safe_substitute(patient.environ).replace("{user}", patient.user).replace("{account}", account)


def _local_disks(profile: SiteProfile, patient: Patient) -> list[str]:
    paths = [kind.local_disk.path for kind in profile.kinds if kind.local_disk]
    return [expanded(path, patient) for path in paths if path]
