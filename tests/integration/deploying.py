"""Runs `rhapsody deploy` and its fellows as users do, where a batch system's commands may be stand-ins on PATH."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

WITHIN_S = 60
CAMPAIGN = """
import time
from pathlib import Path

from rhapsody import ComputeTask


def square(number):
    return number * number


def wait(folder):
    Path(folder, "waiting").touch()
    time.sleep(60)


async def campaign(session, args):
    if args[:1] == ["fail"]:
        raise ValueError("as it was told")
    if args[:1] == ["wait"]:
        await session.submit(ComputeTask(wait, args=(args[1],)))
        return
    squares = [ComputeTask(square, args=(number,)) for number in range(10)]
    await session.submit(squares)
    print("sum", sum([(await task).return_value for task in squares]), *args)
"""


class Ended(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str


class Desk:
    """A folder with a campaign, where a user types commands.

    Args:
        folder: For everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.campaign = folder / "study.py"
        self.campaign.write_text(CAMPAIGN)
        self.commands = folder / "bin"
        self.commands.mkdir()
        (folder / ".bash_profile").write_text("PATH=$DESK_PATH\n")  # what /etc/profile has set does not count

    def put(self, name: str, script: str) -> None:
        """Put a command on PATH."""
        file = self.commands / name
        file.write_text(script)
        file.chmod(0o755)

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """Return the variables of a command: nothing of a job, nor of the runs of others."""
        names = {
            name: value for name, value in os.environ.items() if not name.startswith(("RHAPSODY_", "SLURM_", "PBS_"))
        }
        # Only what every machine has: the batch system of this one must not be asked.
        basics = [str(self.commands), str(Path(sys.executable).parent), "/usr/local/sbin", "/usr/sbin", "/sbin"]
        path = ":".join([*basics, str(self._plain())])
        return names | {"PATH": path, "DESK_PATH": path, "HOME": str(self.folder)} | more

    def _plain(self) -> Path:
        """Return a folder with the system's commands, but for those of batch systems."""
        folder = self.folder / "system"
        if not folder.exists():
            folder.mkdir()
            for place in (Path("/usr/bin"), Path("/bin")):
                for file in place.iterdir():
                    if file.name not in _BATCH and not (folder / file.name).is_symlink():
                        (folder / file.name).symlink_to(file)
        return folder

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "rhapsody", *args],
            cwd=self.folder,
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> Ended:
        """Run a command to its end."""
        return end_of(self.start(*args, **env))

    @property
    def runs(self) -> list[Path]:
        """The run folders."""
        folder = self.folder / "runs"
        return sorted(folder.iterdir()) if folder.exists() else []


def end_of(process: subprocess.Popen[str]) -> Ended:
    """Wait for a command and return what it said; one that takes too long is ended."""
    try:
        out, err = process.communicate(timeout=WITHIN_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=WITHIN_S)
        raise AssertionError(f"it did not end within {WITHIN_S} s; it said:\n{out}{err}") from None
    return Ended(process.returncode, out, err)


_BATCH = frozenset({
    "sbatch", "squeue", "scancel", "sacct", "sacctmgr", "srun", "salloc", "scontrol", "sinfo", "sshare", "sbcast",
    "qsub", "qstat", "qdel", "qsig", "pbsnodes",
})  # fmt: skip
