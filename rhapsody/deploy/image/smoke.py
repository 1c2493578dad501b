"""Says, inside an image, whether all is there that a campaign needs: `python -m rhapsody.deploy.image.smoke [--json]`.

A campaign of functions, a program and MPI over the local backend, then one over Dragon, each as a user would start it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.backends.dragon import surroundings
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

WRONG = "WRONG"
"""Lines that begin so tell of a step that went wrong."""
FALSE = '"good": false'
"""The same in JSON."""
_LIMIT_S = 180
_LAST_LINES = 12
_FORBIDDEN = ("slurmctld", "slurmd", "srun", "sbatch", "sshd", "qsub")

_LOCAL = '''
"""Functions, a program, and a function over MPI."""

from pathlib import Path

from rhapsody import ComputeTask, Resources


def square(number):
    return number * number


def count_ranks():
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(1)


async def campaign(session, args):
    squares = [ComputeTask(square, args=(number,)) for number in range(10)]
    total = ComputeTask(sum, args=(squares,))
    hello = ComputeTask(executable="echo", arguments=["hello", total])
    ranks = ComputeTask(count_ranks, resources=Resources(ranks=2))
    await session.submit([*squares, total, hello, ranks])
    seen = [(await hello).stdout.strip(), (await ranks).return_value]
    Path(args[0]).write_text(repr(seen))
'''
_LOCAL_SEEN = "['hello 285', [2, 2]]"

_DRAGON = '''
"""A queue of Dragon's, made and used by a function."""

from pathlib import Path

from rhapsody import ComputeTask


def through_a_queue(count):
    from dragon.native.queue import Queue

    queue = Queue()
    for number in range(count):
        queue.put(number)
    return sum(queue.get() for _ in range(count))


async def campaign(session, args):
    task = ComputeTask(through_a_queue, args=(10,))
    await session.submit(task)
    Path(args[0]).write_text(repr((await task).return_value))
'''
_DRAGON_SEEN = "45"


class StepError(Exception):
    """A step found that something is not as it should be; the text says what."""


def installed() -> str:
    """Return which versions there are."""
    found = {name: version(name) for name in ("rhapsody-hpc", "dragonhpc", "mpich", "mpi4py")}
    if missing := [name for name in ("rhapsody", "rhapsody-node", "dragon", "mpiexec") if shutil.which(name) is None]:
        raise StepError(
            f"not on PATH: {', '.join(missing)}; was PATH replaced? The image's begins with /opt/rhapsody/bin"
        )
    return ", ".join(f"{name} {found[name]}" for name in found)


def nothing_of_a_machine() -> str:
    """Return that no batch system and no ssh server is there."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    if found := [name for name in _FORBIDDEN if shutil.which(name, path=path)]:
        raise StepError(f"these do not belong into the image: {', '.join(found)}")
    return "no batch system, no ssh server"


def shared_memory() -> str:
    """Return how much there is."""
    free = surroundings.free_shared_memory()
    surroundings.variables(free, os.cpu_count() or 1, {})
    return f"{free // surroundings.MIB} MiB free in /dev/shm"


def local_campaign() -> str:
    """Return that a campaign ran over the local backend."""
    return run_campaign("local", _LOCAL, _LOCAL_SEEN, "functions, a program and MPI")


def dragon_campaign() -> str:
    """Return that a campaign ran over Dragon."""
    return run_campaign("dragon", _DRAGON, _DRAGON_SEEN, "a queue of Dragon's")


def run_campaign(backend: str, text: str, wanted: str, what: str) -> str:
    """Run a campaign by `rhapsody run`.

    Args:
        backend: To run it over.
        text: Of its file; it writes what it saw into the file that its first argument names.
        wanted: What it should write.
        what: Returned if it did.
    """
    with tempfile.TemporaryDirectory(prefix="rhapsody-smoke-") as name:
        folder = Path(name)
        file, seen = folder / "campaign.py", folder / "seen.txt"
        file.write_text(text)
        command = [sys.executable, "-m", "rhapsody", "run", "--backend", backend, "--cores", "2", "--quiet"]
        try:
            done = subprocess.run(  # noqa: S603 - this Python
                [*command, str(file), str(seen)],
                cwd=folder,
                env={**os.environ, "RHAPSODY_RUNS": str(folder / "runs")},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise StepError(f"the campaign over {backend} did not end within {_LIMIT_S} s") from exc
        got = seen.read_text() if seen.exists() else None
    if done.returncode or got != wanted:
        lines = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-_LAST_LINES:])
        raise StepError(f"exit code {done.returncode}, result {got}, not {wanted}; it said:\n  {lines}")
    return what


STEPS: dict[str, Callable[[], str]] = {
    "installed": installed,
    "nothing else": nothing_of_a_machine,
    "shared memory": shared_memory,
    "campaign": local_campaign,
    "dragon": dragon_campaign,
}


def main() -> None:
    """Take each step, say how it went, and exit with 1 if one went wrong."""
    as_json = "--json" in sys.argv[1:]
    results = []
    for name, step in STEPS.items():
        began = time.monotonic()
        try:
            good, text = True, step()
        except (StepError, BackendError) as exc:
            good, text = False, str(exc)
        seconds = round(time.monotonic() - began, 2)
        results.append({"step": name, "good": good, "text": text, "seconds": seconds})
        if not as_json:
            print(f"{'ok   ' if good else WRONG}  {name}: {text} ({seconds} s)", flush=True)  # noqa: T201
    if as_json:
        print(json.dumps(results))  # noqa: T201
    sys.exit(0 if all(result["good"] for result in results) else 1)


if __name__ == "__main__":
    main()
