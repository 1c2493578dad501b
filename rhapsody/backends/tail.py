"""The last of what a task prints."""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from typing_extensions import Buffer

TAIL_BYTES = 64 << 10


class Tail:
    """Keeps the last 64 KiB of a stream of bytes."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def add(self, data: bytes) -> None:
        """Take the next bytes; forget the oldest beyond the limit."""
        self._pieces.append(data)
        self._size += len(data)
        while self._size - len(self._pieces[0]) >= TAIL_BYTES:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        """Return what is kept; bytes that are no UTF-8 are replaced."""
        return b"".join(self._pieces)[-TAIL_BYTES:].decode(errors="replace")

    def take(self) -> str:
        """Return what is kept, and forget it."""
        text = self.text()
        self._pieces.clear()
        self._size = 0
        return text


class TailWriter(io.RawIOBase):
    """Stands below `sys.stdout` or `sys.stderr` of a worker and keeps the tail of what Python code prints.

    Args:
        descriptor: What `fileno()` answers: code below Python writes there, into the workers' log.

    Attributes:
        printed: Whether anything came since `take`.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._tail = Tail()
        self.printed = False

    @override
    def write(self, data: Buffer, /) -> int:
        taken = bytes(data)
        self.printed = True
        self._tail.add(taken)
        return len(taken)

    @override
    def writable(self) -> bool:
        return True

    @override
    def fileno(self) -> int:
        return self._descriptor

    @override
    def close(self) -> None:
        """Stay open: a task that closes its output must not silence those after it."""

    def take(self) -> str:
        """Return the tail of what was printed since the last time."""
        self.printed = False
        return self._tail.take()

    def as_text(self) -> io.TextIOWrapper:
        """Return a text stream that writes here at once."""
        return io.TextIOWrapper(self, encoding="utf-8", errors="backslashreplace", write_through=True)  # type: ignore[arg-type]
