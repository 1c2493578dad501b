"""The built-in runtime: one node, persistent workers for functions, which also run executables and MPI launchers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.backends.pool_backend import PoolBackend
from rhapsody.backends.starter import GuardianStarter

if TYPE_CHECKING:
    from pathlib import Path


class LocalBackend(PoolBackend):
    """Runs everything on this node, by workers that are forked; see `rhapsody.abc.Backend`."""

    name = "local"

    def _make_starter(self, left: Path) -> GuardianStarter:
        return GuardianStarter(left)
