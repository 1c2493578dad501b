"""A command that runs beside the tests."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.node.processes import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Started:
    """A command that was started.

    Args:
        argv: The command.
        env: Added to this environment.
        output: File that gets what it prints.
        process: Which process is meant by signals, given the one that was started: the same, unless it only leads to
            another.

    Attributes:
        output: As given.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: dict[str, str],
        output: Path,
        process: Callable[[int], int] = lambda pid: pid,
    ) -> None:
        self.output = output
        self._process = process
        with output.open("ab") as file:
            self._popen = subprocess.Popen(
                argv,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - tests have one thread
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process(self._popen.pid)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._popen.poll()

    @property
    def said(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def reap(self) -> None:
        """End it, if it still runs."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError, ValueError):
                os.kill(self.pid, signal.SIGKILL)
            self._popen.kill()
        self._popen.wait()


def child_of(pid: int) -> int:
    """Return the only child of a process that has only one thread."""
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)
