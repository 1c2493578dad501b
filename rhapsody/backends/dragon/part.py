"""A host's part of Dragon, as its warden keeps it: on the first the front end; a back end where there are several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.backends.dragon.backend_process import BackEnd
from rhapsody.backends.dragon.frontend import FrontEnd, write_config_program
from rhapsody.backends.dragon.plan import Role
from rhapsody.node.processes import describe_exit

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from rhapsody.backends.dragon.plan import Plan


class Part:
    """What of Dragon runs below this process.

    Args:
        folder: The pool's private folder.
        plan: How Dragon is to be run.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._front_end = FrontEnd(folder, plan)
        self.back_end: BackEnd | None = None
        """Brought by a hand."""

    def start(self) -> None:
        """Start the front end, if it is here.

        Raises:
            OSError: There is no room or no right to.
        """
        if self._plan.role == Role.OTHER:
            write_config_program(self._folder / "bin")
        else:
            self._front_end.start()

    def take(self, hand: socket.socket) -> None:
        """Start the back end that a hand has brought.

        Raises:
            OSError: There is one, or it cannot be started.
        """
        if self.back_end is not None or self._plan.role == Role.ALONE:
            raise FileExistsError("there is a back end already, or none is wanted")
        self.back_end = BackEnd(hand, self._folder)

    @property
    def pids(self) -> list[int]:
        """Process ids of the front end and the back end, those that live."""
        return [part.pid for part in (self._front_end, self.back_end) if part is not None and part.pid]

    def why_ended(self) -> str:
        """Return how a part of it ended; empty while all runs."""
        if self._front_end.pid and (code := self._front_end.exit_code()) is not None:
            return f"its front end {describe_exit(code)}"
        if self.back_end is not None and (code := self.back_end.exit_code()) is not None:
            return f"its back end on this host {describe_exit(code)}"
        return ""

    def note_shared_memory(self) -> None:
        """Write down what it has in /dev/shm by now."""
        self._front_end.note_shared_memory()

    def end(self) -> None:
        """End it, whatever it started, and whatever that started; then free its shared memory."""
        self._front_end.end()
        if self.back_end is not None:
            self.back_end.close()
            self.back_end = None

    def last_words(self) -> str:
        """Return the last lines that it wrote."""
        return self._front_end.last_words()
