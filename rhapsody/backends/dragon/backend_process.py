"""Dragon's back end on a host, which a hand has brought: a command that the warden runs with the hand's streams."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from typing import TYPE_CHECKING

from rhapsody.backends.dragon import link
from rhapsody.backends.dragon.frontend import give_back_descriptors

if TYPE_CHECKING:
    from pathlib import Path

_COMMAND_BYTES = 1 << 20
_PATH = " PATH="
"""In Dragon's words; before what follows comes the folder that has this host's `dragon-config`."""
_COMMAND_LIMIT_S = 5.0


class BackEnd:
    """A back end that runs.

    Args:
        hand: Connection to who has brought it.
        folder: Where it stands.

    Raises:
        OSError: It cannot be started, or the hand has brought nothing.
    """

    def __init__(self, hand: socket.socket, folder: Path) -> None:
        self.hand = hand
        hand.settimeout(_COMMAND_LIMIT_S)
        command, streams, _, _ = socket.recv_fds(hand, _COMMAND_BYTES, 3)
        hand.settimeout(None)
        try:
            if len(streams) != 3:
                raise ConnectionError("the hand has hung up")
            self._process = subprocess.Popen(  # noqa: S602 - Dragon's own words, from a hand that knows the token
                command.decode().replace(_PATH, f"{_PATH}{folder / 'bin'}{os.pathsep}", 1),
                shell=True,
                cwd=folder,
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                start_new_session=True,
                preexec_fn=give_back_descriptors,  # noqa: PLW1509 - the warden has one thread
            )
        finally:
            for stream in streams:
                os.close(stream)

    @property
    def pid(self) -> int:
        """Process id of its shell."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        return self._process.poll()

    def hear(self) -> bool:
        """Pass on a signal that the hand has got; return whether the hand is still there."""
        if not select.select([self.hand], [], [], 0)[0]:
            return True
        message = link.receive(self.hand)
        if message is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.Signals(message[0]))
        return True

    def close(self) -> None:
        """Tell the hand how it ended; all of it has."""
        code = self._process.returncode  # if it ended by itself
        if code is not None:
            with contextlib.suppress(OSError):  # the hand is gone
                link.send(self.hand, code if code >= 0 else 128 - code)
        self.hand.close()
