"""What a session says to its user: told at once, and kept with the time in `logs/session.log` of the run folder."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import TextIOWrapper
    from pathlib import Path


class Notices:
    """Tells and keeps one-line messages.

    Args:
        tell: Called with each message.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._file: TextIOWrapper | None = None
        self._early: list[str] = []

    def __call__(self, message: str) -> None:
        """Tell a message and keep it."""
        self._tell(message)
        self.keep(message)

    def keep(self, message: str) -> None:
        """Keep a message without telling it."""
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n"
        if self._file is None:
            self._early.append(line)
            return
        with suppress(OSError, ValueError):  # a full disk must not end the session; the user was told
            self._file.write(line)
            self._file.flush()

    def open(self, path: Path) -> None:
        """Keep what was said so far, and what will be, in a file."""
        with suppress(OSError):
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace")
            path.chmod(0o600)
        early, self._early = self._early, []
        with suppress(OSError):
            if self._file is not None:
                self._file.writelines(early)
                self._file.flush()

    def close(self) -> None:
        """Keep no more."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
