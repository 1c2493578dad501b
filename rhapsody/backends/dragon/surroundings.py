"""What Dragon needs of a node, looked at before it is started, since it hangs without a word where that is missing."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.backends.shared_memory import FOLDER
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1 << 20
POOL, INFRASTRUCTURE, WAIT_MODE = "DRAGON_DEFAULT_SEG_SZ", "DRAGON_INF_SEG_SZ", "DRAGON_USER_WAIT_MODE"
# Source: dragonhpc 0.15.0, parameters.py: 4 GiB and 1 GiB unless told otherwise.
_MOST = {POOL: 4096 * MIB, INFRASTRUCTURE: 1024 * MIB}
_LEAST = {POOL: 256 * MIB, INFRASTRUCTURE: 128 * MIB}
_SHARE = {POOL: 4, INFRASTRUCTURE: 8}
LEAST_FREE = 1024 * MIB
"""Dragon 0.15.0 makes its pool for logs so large whatever it is told (`dlogging/util.py`); 1 GiB in all was tried."""
_INSIDE = "DRAGON_MY_PUID"
_FEW_CPUS = 8
"""With so many or fewer, a process that spins while it waits takes a core from those that work."""


def is_installed() -> bool:
    """Return whether Dragon is there; it is not imported, which takes half a second."""
    found = find_spec("dragon")
    places = () if found is None else found.submodule_search_locations or ()
    return any(Path(place, "launcher").is_dir() for place in places)


def require_dragon(environ: Mapping[str, str]) -> None:
    """Make sure that Dragon is installed, and that this process is not itself inside of one.

    Args:
        environ: This process's.

    Raises:
        BackendError: It is not so.
    """
    if not is_installed():
        raise BackendError(
            "the dragon backend needs dragonhpc, which is not installed in this environment;"
            " run: pip install 'rhapsody-hpc[dragon]'"
        )
    if _INSIDE in environ:
        raise BackendError(
            f"this process runs inside Dragon ({_INSIDE} is set), and the dragon backend starts one of its own;"
            " start the session outside of Dragon, or choose the local backend"
        )


def variables(free: int, cpus: int, environ: Mapping[str, str], node: str = "") -> dict[str, str]:
    """Return variables to start Dragon with; what the user has set stays.

    Args:
        free: Bytes free in /dev/shm.
        cpus: CPUs of the node that may be used.
        environ: What is set already.
        node: Name of the node that has so much free, where there are several.

    Raises:
        BackendError: There is not enough shared memory.
    """
    where = f" of {node}" if node else ""
    if free < LEAST_FREE:
        raise BackendError(
            f"Dragon needs {LEAST_FREE // MIB} MiB of shared memory, {FOLDER}{where} has {free // MIB} MiB free; free"
            f" some, or enlarge it (mount -o remount,size=8g {FOLDER}; for containers --shm-size 8g)"
        )
    found = {
        name: str(max(_LEAST[name], min(_MOST[name], free // share // MIB * MIB)))
        for name, share in _SHARE.items()
        if name not in environ
    }
    if cpus <= _FEW_CPUS and WAIT_MODE not in environ:
        found[WAIT_MODE] = "IDLE_WAIT"
    return found


def free_shared_memory() -> int:
    """Return the bytes that are free in /dev/shm.

    Raises:
        BackendError: There is none.
    """
    try:
        status = os.statvfs(FOLDER)
    except OSError as exc:
        raise BackendError(f"Dragon needs shared memory, and {FOLDER} cannot be used: {exc.strerror}") from exc
    return status.f_bavail * status.f_frsize
