"""`rhapsody`, killed by SIGKILL just before a given record of the journal, or in the middle of writing it.

    python -m tests.crashes.victim FRAME BYTES WHOM ARGUMENTS...

FRAME is the index of the record; BYTES of it are still written. WHOM is `session`, or `all`: the guardian and with it
the workers are killed first, so that nobody is left to say what became of the tasks.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.cli.main import main

if TYPE_CHECKING:
    from typing_extensions import Buffer

_HEAD = struct.Struct("<4sIQI")
"""Of a frame: magic, bytes of the payload, index, checksum."""


def begin_of(frame: int, data: bytes) -> int:
    """Return where a frame begins in what is about to be written; -1 where it does not."""
    at = 0
    while at < len(data):
        _, length, index, _ = _HEAD.unpack_from(data, at)
        if index == frame:
            return at
        at += _HEAD.size + length
    return -1


def guardians() -> list[int]:
    """Return the process ids of this process's children."""
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


def run(frame: int, bytes_written: int, whom: str) -> None:
    """Be `rhapsody` until the record is to be written."""
    write = os.pwrite

    def pwrite(file: int, data: Buffer, offset: int, /) -> int:
        if Path(f"/proc/self/fd/{file}").readlink().suffix == ".log":
            whole = bytes(data)
            begin = begin_of(frame, whole)
            if begin >= 0:
                write(file, whole[: begin + bytes_written], offset)
                for pid in guardians() if whom == "all" else ():
                    os.kill(pid, signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
        return write(file, data, offset)

    os.pwrite = pwrite
    main()


if __name__ == "__main__":
    frame, bytes_written, whom, *sys.argv[1:] = sys.argv[1:]
    run(int(frame), int(bytes_written), whom)
