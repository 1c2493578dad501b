"""Who meets the warden at its socket, and what they need for it."""

from __future__ import annotations

import marshal
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from rhapsody.backends.dragon import link

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

WELCOME = link.Welcome("address", b"pool", "log", ("a", "b"), {"PATH": "/bin"}, (0, 1))


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[socket.socket, bytes]]:
    """Return a warden's socket and token in the test's folder."""
    listener, token = link.listen(tmp_path)
    with listener:
        yield listener, token


def answering(listener: socket.socket, answer: Callable[[socket.socket, bytes], None]) -> threading.Thread:
    """Return a running thread that answers the first who connects."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            answer(connection, connection.recv(link.HELLO.size))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_greeting_shows_the_token_and_who_it_is(tmp_path: Path, opened: tuple[socket.socket, bytes]) -> None:
    listener, token = opened
    heard: list[bytes] = []

    def answer(connection: socket.socket, hello: bytes) -> None:
        heard.append(hello)
        connection.send(marshal.dumps(tuple(WELCOME)))

    thread = answering(listener, answer)

    connection, welcome, descriptors = link.greet(tmp_path, 7)

    thread.join()
    connection.close()
    assert heard == [link.HELLO.pack(token, 7)]
    assert (welcome, descriptors) == (WELCOME, [])


def test_memory_that_comes_with_the_answer_is_not_inherited(
    tmp_path: Path, opened: tuple[socket.socket, bytes]
) -> None:
    with (tmp_path / "memory").open("w") as file:

        def answer(there: socket.socket, _hello: bytes) -> None:
            socket.send_fds(there, [marshal.dumps(tuple(WELCOME))], [file.fileno()])

        thread = answering(opened[0], answer)

        connection, _, (descriptor,) = link.greet(tmp_path, 7)

    thread.join()
    connection.close()
    inheritable = os.get_inheritable(descriptor)
    os.close(descriptor)
    assert not inheritable


def test_warden_that_hangs_up_is_said(tmp_path: Path, opened: tuple[socket.socket, bytes]) -> None:
    thread = answering(opened[0], lambda _there, _hello: None)

    with pytest.raises(ConnectionError, match="hung up"):
        link.greet(tmp_path, 7)

    thread.join()


def test_token_is_for_this_user_alone(tmp_path: Path, opened: tuple[socket.socket, bytes]) -> None:
    (file,) = [path for path in tmp_path.iterdir() if path.is_file()]

    assert file.read_bytes() == opened[1]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_receiving_from_one_who_is_gone_gives_nothing() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        link.send(theirs, "beat", 1)
        theirs.close()

        assert link.receive(ours) == ("beat", 1)
        assert link.receive(ours) is None
