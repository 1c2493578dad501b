"""Mends Dragon 0.15.0 over several hosts where it spins, or fails to start; found by PYTHONPATH in all its processes.

Dragon hands PYTHONPATH on to every process on every host, and Python imports this module when it starts. What is mended
is mended when Dragon's own modules are imported; nothing that is installed is touched, another version is left alone.
"""

from __future__ import annotations

import asyncio
import importlib.abc
import importlib.metadata
import importlib.util
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

VERSION = "0.15.0"
FRONT_END_POOL = 128 << 20
"""Bytes of the front end's own pool; otherwise 4 GiB, whatever Dragon is told."""
SHORTEST_NAP_S, LONGEST_NAP_S = 0.0005, 0.01
LONGEST_WAIT_S = 0.1


def _queue(module: Any) -> None:
    """Let `Queue.poll(timeout)` wait: it returns at once, and who calls it in a loop spins."""

    def poll(self: Any, timeout: float | None = 0) -> bool:
        end = None if timeout is None else time.monotonic() + timeout
        nap = 0.001
        while not self._poll(timeout=0):
            rest = nap if end is None else min(nap, end - time.monotonic())
            if rest <= 0:
                return False
            time.sleep(rest)
            nap = min(2 * nap, LONGEST_WAIT_S)
        return True

    module.Queue.poll = poll


def _client(module: Any) -> None:
    """Let the agents between hosts nap while nothing comes: their waits spin first, then wake 2,000 times a second."""

    async def recv(self: Any, interval: float | None = None) -> Any:  # noqa: ARG001 - as Dragon has it
        nap, message = SHORTEST_NAP_S, None
        while message is None:
            try:
                message = self._recv_handle.recv(blocking=False)
            except (module.ChannelEmpty, module.ChannelRecvTimeout):
                await asyncio.sleep(nap)
                nap = min(1.1 * nap, LONGEST_NAP_S)
        try:
            return module.GatewayMessage.from_message(message)
        finally:
            message.destroy()

    module.Client.recv = recv


def _agent(module: Any) -> None:
    """Let the agent between hosts wait as the user said, in `DRAGON_USER_WAIT_MODE`."""
    if os.environ.get("DRAGON_USER_WAIT_MODE", "") in {"IDLE_WAIT", "WaitMode(0)"}:
        module.DEFAULT_WAIT_MODE = module.IDLE_WAIT


def _front_end(module: Any) -> None:
    """Take what hosts say at the start in whatever order it comes: one's last word may overtake another's first."""

    def receive(self: Any, expected_type: type, count: int = 1, *, what: str | None = None) -> list[Any]:
        early = self.__dict__.setdefault("_early", [])
        found = [message for message in early if isinstance(message, expected_type)][:count]
        early[:] = [message for message in early if message not in found]
        while len(found) < count:
            message = module.dlutil.get_with_blocking(self.la_fe_stdin)
            if isinstance(message, expected_type):
                found.append(message)
            elif isinstance(message, module.dmsg.GSIsUp):
                early.append(message)
            else:
                self._raise_startup_failure(message, what or expected_type.__name__)
        return found

    module.LauncherFrontEnd._recv_startup_msgs = receive  # noqa: SLF001 - Dragon's: this is what is mended


def _facts(module: Any) -> None:
    """Make the front end's own pool smaller."""
    module.DEFAULT_SINGLE_DEF_SEG_SZ = str(FRONT_END_POOL)


MENDED = {
    "dragon.infrastructure.facts": _facts,
    "dragon.launcher.frontend": _front_end,
    "dragon.native.queue": _queue,
    "dragon.transport.tcp.__main__": _agent,
    "dragon.transport.tcp.client": _client,
}


class Mender(importlib.abc.MetaPathFinder):
    """Finds Dragon's modules as they are, and mends them once they are loaded."""

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - as Python has it
        target: ModuleType | None = None,  # noqa: ARG002 - as Python has it
    ) -> ModuleSpec | None:
        """Find one of the modules that are mended; see `MetaPathFinder.find_spec`."""
        if name not in MENDED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_mend(module: ModuleType) -> None:
            load(module)
            MENDED[name](module)

        spec.loader.exec_module = load_and_mend  # type: ignore[method-assign]
        return spec


def _next_in_line() -> None:
    """Run the `sitecustomize` that this one hides."""
    here = Path(__file__).resolve().parent
    own = sys.modules.pop("sitecustomize", None)
    path = list(sys.path)
    sys.path[:] = [entry for entry in path if Path(entry or ".").resolve() != here]
    try:
        importlib.import_module("sitecustomize")
    except ModuleNotFoundError:
        if own is not None:
            sys.modules["sitecustomize"] = own
    finally:
        sys.path[:] = path


def _is_known_version() -> bool:
    try:
        return importlib.metadata.version("dragonhpc") == VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


if _is_known_version():
    sys.meta_path.insert(0, Mender())
_next_in_line()
