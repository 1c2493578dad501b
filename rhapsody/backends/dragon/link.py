"""What the warden of a node, the head program and the workers inside Dragon say to each other.

They meet at a Unix socket that keeps message boundaries, in the pool's private folder. Whoever connects shows the token
that lies there, and who it is; the answer is a `Welcome`. A worker gets its memory with it, and hangs up; the head
program stays, and gets orders.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import secrets
import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

HELLO = struct.Struct("<32sQ")
"""First message of whoever connects: the token, and the worker's id, `HEAD` or `HAND`."""
HEAD = 0
HAND = (1 << 64) - 1
"""Who brings a command that is to be run: see `rhapsody.backends.dragon.hand`."""
MESSAGE_BYTES = 1 << 20
_TOKEN = "token"  # noqa: S105 - the file's name
_SOCKET = "warden"


class Welcome(NamedTuple):
    """What the warden answers.

    Attributes:
        address: Path of the pool's socket.
        token: For the pool.
        log: File that collects what workers print outside of tasks.
        sys_path: Import path of the session.
        environ: Variables that workers find, besides those of Dragon, which are the same on all its hosts.
        cpus: That the session may use.
    """

    address: str
    token: bytes
    log: str
    sys_path: tuple[str, ...]
    environ: dict[str, str]
    cpus: tuple[int, ...]


def listen(folder: Path) -> tuple[socket.socket, bytes]:
    """Open the socket in a folder that nobody else may enter, and leave a token there; return both."""
    token = secrets.token_bytes(32)
    path = folder / _TOKEN
    path.touch(mode=0o600)
    path.write_bytes(token)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / _SOCKET))
    listener.listen(512)
    return listener, token


def greet(folder: Path, who: int) -> tuple[socket.socket, Welcome, list[int]]:
    """Connect; return the connection, what the warden answers, and the descriptors that came with it.

    Args:
        folder: The pool's.
        who: The worker's id, or `HEAD`.

    Raises:
        ConnectionError: The warden is gone, or knows of no such worker.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(connect(folder, who))
        data, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 3)
        if not data:
            raise ConnectionError("the warden has hung up")
        stack.pop_all()
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)  # noqa: FBT003 - positional only
    return connection, Welcome(*marshal.loads(data)), descriptors  # noqa: S302 - the folder is this user's alone


def connect(folder: Path, who: int) -> socket.socket:
    """Connect, and show the token.

    Raises:
        OSError: Nobody is there.
    """
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        connection.connect(str(folder / _SOCKET))
        connection.send(HELLO.pack((folder / _TOKEN).read_bytes(), who))
        stack.pop_all()
    return connection


def send(connection: socket.socket, *message: Any) -> None:  # noqa: ANN401 - what marshal can carry
    """Send a message."""
    connection.send(marshal.dumps(message))


def receive(connection: socket.socket) -> tuple[Any, ...] | None:
    """Return the next message; None when the other side is gone."""
    try:
        data = connection.recv(MESSAGE_BYTES)
    except ConnectionError:
        return None
    return tuple(marshal.loads(data)) if data else None  # noqa: S302 - it showed the token
