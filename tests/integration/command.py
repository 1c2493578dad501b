"""Starts `rhapsody run` as users do: a process of its own, with its outputs in files or on a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.eventually import eventually

WITHIN_S = 30.0


class Ended(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str


class Running:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err

    @property
    def err(self) -> str:
        """What it said on standard error so far."""
        return self._err.read_text()

    def interrupt(self) -> None:
        """Do what a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    async def end(self) -> Ended:
        """Wait for the end and return what was said."""
        await eventually(lambda: self.process.poll() is not None, within_s=WITHIN_S, what="the command ends")
        return Ended(self.process.returncode, self._out.read_text(), self._err.read_text())


class Command:
    """Starts `rhapsody run` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []

    def start(self, *args: str, **env: str) -> Running:
        """Start it with its outputs in files."""
        number = len(self.started)
        out, err = self.folder / f"out.{number}", self.folder / f"err.{number}"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = self._popen(args, env, to_out.fileno(), to_err.fileno())
        self.started.append(Running(process, out, err))
        return self.started[-1]

    def start_on_terminal(self, terminal: int, *args: str) -> subprocess.Popen[bytes]:
        """Start it with its outputs on a terminal."""
        process = self._popen(args, {"TERM": "xterm", "COLUMNS": "90", "LINES": "24"}, terminal, terminal)
        self.started.append(Running(process, Path(os.devnull), Path(os.devnull)))
        return process

    async def run(self, *args: str, **env: str) -> Ended:
        """Run it to its end."""
        return await self.start(*args, **env).end()

    def _popen(self, args: tuple[str, ...], env: dict[str, str], out: int, err: int) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RHAPSODY_")}
        return subprocess.Popen(
            # Where the tests run in the background, Ctrl-C is ignored, and children would inherit that.
            ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "rhapsody", "run", *args],
            cwd=self.folder,
            env={"RHAPSODY_RUNS": str(self.folder / "runs"), **inherited, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
