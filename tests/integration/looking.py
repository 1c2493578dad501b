"""Looks at runs with the command, and makes runs that wait until they are told to go on."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from rhapsody.model.event import State
from rhapsody.session.status import RunWatcher
from tests.eventually import eventually
from tests.integration.command import WITHIN_S, Command, Ended, Running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

GATED = """
from rhapsody import ComputeTask

def fold(number):
    if number == 3:
        raise ValueError("no such residue")

def gated(number, folder):
    text = 'echo out; echo err >&2; echo $$ > tmp.$1; mv tmp.$1 up.$1; read line < gate.$1'
    return ComputeTask(
        executable="sh", arguments=["-c", text, "sh", number], cwd=folder, uid=f"gate-{number}", capture_stdio=True
    )

async def campaign(session, args):
    folds = [ComputeTask(fold, args=(number,)) for number in range(10)]
    await session.submit(folds)
    await session.wait(folds)
    await session.submit([gated(number, args[0]) for number in range(4)])
    await session.wait()
"""
"""Ten short tasks, one of which fails, then four of which two fit at a time: each runs until its gate is opened."""


class Gated:
    """A run of `GATED`.

    Attributes:
        running: The command that runs it.
    """

    def __init__(self, command: Command, name: str = "study") -> None:
        self._name = name
        self._folder = command.folder
        self._gates = command.folder / f"{name}-gates"
        self._gates.mkdir()
        for number in range(4):
            os.mkfifo(self._gates / f"gate.{number}")
        (command.folder / f"{name}.py").write_text(GATED)
        self.running: Running = command.start(f"{name}.py", "--cores", "2", "--", str(self._gates))

    @property
    def at_gates(self) -> dict[int, int]:
        """Numbers and process ids of its tasks that have started at gates."""
        return {int(file.suffix[1:]): int(file.read_text()) for file in self._gates.glob("up.*")}

    async def up(self) -> Gated:
        """Wait until two of its tasks are at their gates, and its journal says so."""
        await eventually(lambda: len(self.at_gates) == 2, within_s=WITHIN_S, what="two tasks are up")
        watcher = RunWatcher(self.run_dir)
        await eventually(lambda: watcher.look().counts.get(State.RUNNING) == 2, within_s=WITHIN_S, what="both RUNNING")
        return self

    @property
    def run_dir(self) -> Path:
        """Its run folder."""
        (found,) = (folder for folder in runs_of(self._folder) if folder.name.startswith(f"{self._name}-"))
        return found

    async def open(self, *numbers: int) -> None:
        """Let tasks end, in this order."""
        for number in numbers:
            await asyncio.to_thread((self._gates / f"gate.{number}").write_text, "\n")

    async def crash(self) -> Path:
        """Kill the session, so that it cannot say how it ended; return the run folder."""
        self.running.process.kill()
        await self.running.end()
        return self.run_dir


def runs_of(folder: Path) -> list[Path]:
    """Return the run folders."""
    return sorted((folder / "runs").iterdir()) if (folder / "runs").exists() else []


async def rhapsody(folder: Path, *args: str) -> Ended:
    """Run the command over the runs of a folder; return what it said."""
    async with started(folder, *args) as process:
        out, err = await asyncio.wait_for(process.communicate(), WITHIN_S)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


@asynccontextmanager
async def started(folder: Path, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start the command over the runs of a folder; kill it in the end if it still runs."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RHAPSODY_")}
    process = await asyncio.create_subprocess_exec(
        *("/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "rhapsody", *args),
        cwd=folder,
        env={"RHAPSODY_RUNS": str(folder / "runs"), **inherited},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def next_line(process: asyncio.subprocess.Process) -> str:
    """Return the next line that a command prints."""
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), WITHIN_S)).decode()
