"""The built-in runtime: persistent workers for functions, which also run executables and MPI launchers."""

from __future__ import annotations

from rhapsody.backends.node_pools import Runtime
from rhapsody.backends.pool_backend import PoolBackend
from rhapsody.backends.starter import GuardianStarter


class LocalBackend(PoolBackend):
    """Runs everything by workers that are forked, on one node or several; see `rhapsody.abc.Backend`."""

    name = "local"

    def _runtime(self) -> Runtime:
        return Runtime(GuardianStarter, "rhapsody.backends.executor")
