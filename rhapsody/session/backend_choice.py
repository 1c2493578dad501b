"""Which runtime a session uses."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rhapsody.backends.dragon.backend import DragonBackend
from rhapsody.backends.dragon.surroundings import is_installed
from rhapsody.backends.local import LocalBackend
from rhapsody.errors import unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.abc import Backend
    from rhapsody.model.allocation import Allocation

VARIABLE = "RHAPSODY_BACKEND"
BACKENDS: dict[str, Callable[[], Backend]] = {"local": LocalBackend, "dragon": DragonBackend}
"""Backends by name."""
AUTO = "auto"


def choose_backend(wanted: str | Backend | None, allocation: Allocation, notify: Callable[[str], None]) -> Backend:
    """Return the backend that is wanted; of `auto`, when somebody asked for that, it is said what it came to and why.

    Args:
        wanted: A name, a backend of the user's own, or None for what the environment says, else `auto`.
        allocation: Where it has to run.
        notify: Called with a line for the user.

    Raises:
        SpecError: There is none of this name.
    """
    chosen = wanted if wanted is not None else os.environ.get(VARIABLE)
    if chosen is not None and not isinstance(chosen, str):
        return chosen
    if not chosen or chosen == AUTO:
        name, why = _automatic(len(allocation.nodes))
        if chosen:
            notify(f"backend: {name}, since {why}")
        chosen = name
    if chosen not in BACKENDS:
        raise unknown_name("backend", chosen, [AUTO, *BACKENDS])
    return BACKENDS[chosen]()


def _automatic(nodes: int) -> tuple[str, str]:
    if nodes == 1:
        return "local", "the allocation is one node; ask for dragon where tasks use Dragon's own objects"
    if is_installed():
        return "dragon", f"the allocation has {nodes} nodes, which Dragon makes one runtime"
    return "local", f"dragonhpc is not installed; on {nodes} nodes tasks then share nothing but files"
