"""What agents, and the `ssh` that talks to them, say to each other.

Over TLS: frames of a kind, a length and that many bytes. Who connects says HELLO with the run's token, then what it is:
JOIN (another node's agent, to rank 0) or COMMAND (an `ssh`). What is not understood ends the connection.

Data of a command's three streams is sent only as far as the other side has room: it says with TAKEN how much it passed
on, whenever that is a `CHUNK`, a quarter of the window. So a stream that nobody reads stops nothing else, above all no
signal, and memory is bounded.

The `ssh` imports this at each start: nothing that takes long to load belongs here.
"""

from __future__ import annotations

import struct
from enum import IntEnum

VERSION = 1
HANDSHAKE_LIMIT_S = 10.0
"""Who has not said what it wants after so long is disconnected."""
SILENCE_LIMIT_S = 8.0
"""An agent of which nothing was heard for so long is taken for lost; so is rank 0, by the others."""
RETURN_LIMIT_S = 3.0
"""After a connection broke there is so long to connect again."""
LONGEST_COMMAND = 1 << 20
WINDOW = 256 << 10
"""Bytes of a stream that may be under way and not yet passed on."""
CHUNK = 64 << 10
"""The most bytes of a stream in one frame."""
LOST = 255
"""Exit code of `ssh` for all that is not the command's own end, as with OpenSSH's."""

_HEADER = struct.Struct(">BI")
_AMOUNT = struct.Struct(">BI")
_CODE = struct.Struct(">i")


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 1
    """The version and the token."""
    JOIN = 2
    """To rank 0: a node's agent. From here on the two beat."""
    COMMAND = 3
    """A command line to run."""
    REFUSED = 4
    """The answer to any of these: a text; the connection ends."""
    STDIN = 5
    """Empty: there is no more."""
    STDOUT = 6
    STDERR = 7
    TAKEN = 8
    """So many bytes of a stream were passed on."""
    CLOSED = 9
    """Nobody reads a stream any more."""
    SIGNAL = 10
    """To the command's process group."""
    EXIT = 11
    """The command has ended, and this was its exit code; all that it wrote was sent before."""
    BEAT = 12
    HOSTS = 13
    """From rank 0: nodes of the job and how to reach them."""
    READY = 14
    """To rank 0: the nodes are known here."""
    LEAVING = 15
    """To rank 0: this node's agent was told to end, with the reason."""
    END = 16
    """From rank 0: the job ends."""


_LONGEST = {Kind.HELLO: 1024, Kind.COMMAND: 4 * LONGEST_COMMAND, Kind.HOSTS: 64 << 20}


class ProtocolError(ConnectionError):
    """The other side says what nobody of this version would say."""


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    """Return a frame's bytes."""
    return _HEADER.pack(kind, len(payload)) + payload


HEADER_BYTES = _HEADER.size


def parse_header(header: bytes) -> tuple[Kind, int]:
    """Return a frame's kind and the length of what follows.

    Raises:
        ProtocolError: There is no such kind, or it may not be so long.
    """
    number, length = _HEADER.unpack(header)
    try:
        kind = Kind(number)
    except ValueError:
        raise ProtocolError(f"a frame of kind {number}, which does not exist") from None
    if length > _LONGEST.get(kind, CHUNK):
        raise ProtocolError(f"a frame {kind.name} of {length} bytes is too long")
    return kind, length


def hello(token: str) -> bytes:
    """Return what everybody says first."""
    return frame(Kind.HELLO, f"{VERSION} {token}".encode())


def command_frame(command: bytes, directory: bytes, environment: list[bytes]) -> bytes:
    """Return the request to run a command line.

    Args:
        command: For the shell.
        directory: To run it in; empty for the agent's own.
        environment: What it finds in its environment besides, as `NAME=VALUE`.

    Raises:
        ProtocolError: It is too long.
    """
    payload = b"\0".join([command, directory, *environment])
    if len(payload) > _LONGEST[Kind.COMMAND]:
        raise ProtocolError(f"the RHAPSODY_* variables have {len(payload) - len(command)} bytes: unset some")
    return frame(Kind.COMMAND, payload)


def parse_command(payload: bytes) -> tuple[bytes, bytes, dict[bytes, bytes]]:
    """Return the command line, the folder to run it in, and what it finds in its environment besides."""
    command, *rest = payload.split(b"\0")
    if len(command) > LONGEST_COMMAND or not rest:
        raise ProtocolError("a command that is too long, or not whole")
    directory, *environment = rest
    pairs = (entry.partition(b"=") for entry in environment)
    return command, directory, {name: value for name, _, value in pairs}


def taken(stream: Kind, count: int) -> bytes:
    """Return the frame that gives room for so many bytes of a stream."""
    return frame(Kind.TAKEN, _AMOUNT.pack(stream, count))


def parse_taken(payload: bytes) -> tuple[Kind, int]:
    """Return the stream and the number of bytes."""
    _expect(payload, _AMOUNT.size, Kind.TAKEN)
    number, count = _AMOUNT.unpack(payload)
    return _stream(number), count


def closed(stream: Kind) -> bytes:
    """Return the frame that says that nobody reads a stream any more."""
    return frame(Kind.CLOSED, bytes([stream]))


def parse_closed(payload: bytes) -> Kind:
    """Return the stream."""
    _expect(payload, 1, Kind.CLOSED)
    return _stream(payload[0])


def exit_frame(code: int) -> bytes:
    """Return the frame that says how a command ended."""
    return frame(Kind.EXIT, _CODE.pack(code))


def parse_exit(payload: bytes) -> int:
    """Return the exit code."""
    _expect(payload, _CODE.size, Kind.EXIT)
    code: int = _CODE.unpack(payload)[0]
    return code


def _expect(payload: bytes, size: int, kind: Kind) -> None:
    if len(payload) != size:
        raise ProtocolError(f"a frame {kind.name} of {len(payload)} bytes instead of {size}")


def _stream(number: int) -> Kind:
    if number not in {Kind.STDIN, Kind.STDOUT, Kind.STDERR}:
        raise ProtocolError(f"{number} is no stream")
    return Kind(number)
