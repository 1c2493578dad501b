"""An agent's own folder on its node: what the `ssh` needs, and all that commands put into $TMPDIR.

It lies in the temporary folder of the node. While the agent lives it holds a lock on it; a folder that nobody holds was
left by an agent that was killed.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from rhapsody.errors import SpecError
from rhapsody.node.files import write_whole
from rhapsody.node.traces import sweep

PREFIX = "rhapsody-node-"
MARK = "RHAPSODY_NODE_MARK"
"""Variable that commands inherit: the name of the folder. So they are known even when nobody else is left."""
FOLDER = "RHAPSODY_NODE_FOLDER"
"""Variable with its path, by which the `ssh` that is the same on all nodes finds the one of this node."""
NAME = "RHAPSODY_NODE_NAME"
"""Variable with the name under which others know this node; the machine may call itself something else."""
NODES = "nodes.json"
"""File in it that lists the nodes of the job, rank 0 first: see `rhapsody.node.messages.Host`."""
SAME_ON_ALL = f'#!/bin/sh\nexec "${FOLDER}/bin/ssh" "$@"\n'
"""Launchers hand their own PATH to other nodes, where this node's private folder is not."""
_LOCK = "lock"
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from rhapsody.node.shell import main; main()"


class PrivateFolder(NamedTuple):
    """The folder of one agent.

    Attributes:
        path: Where it is.
        lock: Descriptor that holds it, inherited by forked processes only.
    """

    path: Path
    lock: int

    @classmethod
    def make(cls) -> Self:
        """Make one with the `ssh` in it.

        Raises:
            SpecError: The temporary folder cannot be written.
        """
        try:
            path = Path(tempfile.mkdtemp(prefix=PREFIX))
            new = path / f"{_LOCK}.new"
            lock = os.open(new, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX)
            new.rename(path / _LOCK)  # held before it can be seen
            for folder in (path / "tmp", path / "bin"):
                folder.mkdir(mode=0o700)
            write_whole(path / "bin" / "ssh", _script(path).encode(), 0o700)
        except OSError as exc:
            where = exc.filename or tempfile.gettempdir()
            raise SpecError(f"cannot make the agent's folder: {where}: {exc.strerror}; set TMPDIR to another") from exc
        return cls(path, lock)

    @classmethod
    def forsaken(cls) -> list[Self]:
        """Return the folders that this user's killed agents have left on this node; they are held from now on."""
        found = []
        for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with suppress(OSError):  # it is somebody else's, is held, or its agent has just ended well
                if path.lstat().st_uid != os.geteuid():
                    continue
                lock = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    os.close(lock)
                    continue
                found.append(cls(path, lock))
        return found

    @property
    def name(self) -> str:
        """How it is told from others on this node."""
        return self.path.name

    @property
    def traces(self) -> Path:
        """File that says what the agent's commands have made elsewhere."""
        return self.path / "traces"

    def clear(self) -> None:
        """Remove what the agent's commands have left on the node, and the folder; they have ended before."""
        sweep(self.traces)
        shutil.rmtree(self.path, ignore_errors=True)
        with suppress(OSError):
            os.close(self.lock)


def _script(folder: Path) -> str:
    """Return the script named `ssh`: it starts the same Python, without reading what a user may have set up for it."""
    root = Path(__file__).parents[2]
    words = [sys.executable, "-I", "-S", "-c", _START, str(root), str(folder)]
    return f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n'
