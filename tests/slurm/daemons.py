"""What runs all the time on the hosts of a cluster."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from tests.hosts.namespaces import Hosts
    from tests.hosts.started import Started

START_S, STOP_S = 30.0, 10.0
_NAMES = ("munged", "mariadbd", "slurmdbd", "slurmctld", "slurmd")
_OF_SLURMCTLD = ": slurmscriptd"
"""As its second process calls itself."""
_POLL_S = 0.05
_SHOWN = 3000


def is_daemon(command: str) -> bool:
    """Return whether the command line of a process is that of a daemon."""
    return command.split(maxsplit=1)[0] in _NAMES or command == _OF_SLURMCTLD


class Daemons:
    """Daemons on hosts; they end with their host, too.

    Args:
        hosts: Where.
        env: Added to this environment.
        folder: For what they print.
    """

    def __init__(self, hosts: Hosts, env: dict[str, str], folder: Path) -> None:
        self._hosts, self._env, self._folder = hosts, env, folder
        self._started: dict[tuple[str, str], Started] = {}

    def start(self, host: str, argv: Sequence[str], *, run_by: Sequence[str] = ()) -> None:
        """Start one.

        Args:
            host: Where.
            argv: The command; it stays in the foreground.
            run_by: What precedes it to run it as another user.
        """
        output = self._folder / f"{argv[0]}.{host}"
        self._started[host, argv[0]] = self._hosts.start(host, [*run_by, *argv], self._env, output)

    def runs(self, host: str, daemon: str) -> bool:
        """Return whether one was started on a host that was not lost since."""
        return (host, daemon) in self._started

    def lost(self, host: str) -> None:
        """Forget those of a host that is gone."""
        for key in [key for key in self._started if key[0] == host]:
            self._started.pop(key).reap()

    def end(self) -> None:
        """End all, the last one first."""
        while self._started:
            _, daemon = self._started.popitem()
            _end(daemon)

    def until(self, is_so: Callable[[], bool], what: str) -> None:
        """Return once something is so.

        Args:
            is_so: Asked again and again.
            what: The sentence that is to become true.

        Raises:
            RuntimeError: A daemon ended, or it took too long; the text has what they printed.
        """
        deadline = time.monotonic() + START_S
        while not is_so():
            ended = [f"{name} on {host}" for (host, name), daemon in self._started.items() if daemon.code is not None]
            if ended or time.monotonic() > deadline:
                why = f"{', '.join(ended)} ended" if ended else f"not within {START_S:g} s"
                raise RuntimeError(f"{what}: {why}; the logs:\n{self._said()}")
            time.sleep(_POLL_S)

    def _said(self) -> str:
        each = self._started.items()
        return "\n".join(f"--- {name} on {host}\n{daemon.said[-_SHOWN:]}" for (host, name), daemon in each)


def _end(daemon: Started) -> None:
    """Ask a daemon to end, then kill it."""
    deadline = time.monotonic() + STOP_S
    try:
        daemon.signal(signal.SIGTERM)
    except (OSError, ValueError):
        deadline = 0.0  # it has ended
    while daemon.code is None and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    daemon.reap()
