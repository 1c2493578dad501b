"""The private folder of a pool, on the node's own disk: its socket lies there, and the files of MPI runs."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

POOL_FOLDER = "RHAPSODY_POOL_FOLDER"
"""Variable in which tasks find it; on other nodes of an MPI run it names a folder that is not there."""
_PREFIX = "rhapsody-"
_SOCKET_PATH_BYTES = 107
"""A longer TMPDIR cannot hold a Unix socket. Source: unix(7)."""


def make_pool_folder() -> Path:
    """Make one that nobody else may enter, with a path that a socket can have."""
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if len(os.fsencode(folder / "pool")) > _SOCKET_PATH_BYTES:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    return folder


def remove_dead_pool_folder(folder: Path) -> None:
    """Remove the folder of a pool that died, if it is one: this user's alone, no link, named as we name them."""
    try:
        status = folder.lstat()
    except OSError:
        return
    is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    if is_private and stat.S_ISDIR(status.st_mode) and folder.is_absolute() and folder.name.startswith(_PREFIX):
        shutil.rmtree(folder, ignore_errors=True)
