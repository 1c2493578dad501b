"""Hands what Dragon wants started on a host to the warden there, so that all of Dragon lies below wardens.

Dragon calls `ssh HOST COMMAND` to start its back end on each host. A script of that name, first on its PATH, runs this:
on the session's host it hands the command, with its streams, to the warden; for another host it has the real `ssh` run
this there.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rhapsody.backends import bootstrap
from rhapsody.backends.dragon import link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.backends.dragon.hosts import DragonHost

_TABLE = "hosts.json"
_PASSED_ON = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_LOST = 255
"""What `ssh` ends with when the command did not end by itself."""
_CONNECT_LIMIT_S = 10.0


def write_ssh(folder: Path, hosts: Sequence[DragonHost], real: str) -> None:
    """Make the `ssh` for Dragon.

    Args:
        folder: The pool's private folder; the script goes into `bin/`.
        hosts: All, this one first.
        real: Path of the `ssh` to other hosts.
    """
    table = {host.name: [host.node, host.folder] for host in hosts}
    (folder / _TABLE).write_text(json.dumps({"real": real, "own": hosts[0].name, "hosts": table}))
    words = bootstrap.command("rhapsody-hand", "rhapsody.backends.dragon.hand", "ssh", str(folder))
    program = folder / "bin" / "ssh"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o700)


def main(way: str, folder: str, *words: str) -> None:
    """Be the `ssh`, or the hand on another host.

    Args:
        way: `ssh` or `hand`.
        folder: The pool's private folder on this host.
        words: The command line of the `ssh`, or the command.
    """
    if way == "hand":
        _hand_over(Path(folder), words[0])
    arguments = list(words)
    while arguments and arguments[0].startswith("-"):
        arguments.pop(0)  # Dragon gives options that are one word each
    name, command = arguments[0], _from_any_folder(" ".join(arguments[1:]))
    table = json.loads(Path(folder, _TABLE).read_text())
    if name == table["own"]:
        _hand_over(Path(folder), command)
    node, there = table["hosts"][name]
    hand = shlex.join(bootstrap.command("rhapsody-hand", "rhapsody.backends.dragon.hand", "hand", there, command))
    os.execv(table["real"], [table["real"], "-oBatchMode=yes", node, f"exec {hand}"])  # noqa: S606 - becoming it


def _from_any_folder(command: str) -> str:
    """Return Dragon's command without its first step: into a folder that is not there on other hosts."""
    first, separator, rest = command.partition(" && ")
    return rest if separator and first.startswith("cd ") else command


def _hand_over(folder: Path, command: str) -> NoReturn:
    """Have the warden run a command with our streams; end as it does."""
    connection = _connect(folder)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake_write)
    for number in _PASSED_ON:
        signal.signal(number, lambda *_: None)
    socket.send_fds(connection, [command.encode()], [0, 1, 2])
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # the command has them now: who reads must see its end
        os.dup2(nothing, descriptor)
    while True:
        ready, _, _ = select.select([connection.fileno(), wake_read], [], [])
        if wake_read in ready:
            for got in os.read(wake_read, 64):
                with suppress(OSError):  # it is gone: the other descriptor says so
                    link.send(connection, got)
        if connection.fileno() in ready:
            said = link.receive(connection)
            os._exit(said[0] if said else _LOST)


def _connect(folder: Path) -> socket.socket:
    """Return a connection to the warden, which may just be starting."""
    deadline = time.monotonic() + _CONNECT_LIMIT_S
    while True:
        try:
            return link.connect(folder, link.HAND)
        except OSError as exc:
            if time.monotonic() > deadline:
                sys.exit(f"the process that keeps Dragon on {socket.gethostname()} cannot be reached: {exc}")
        time.sleep(0.05)
