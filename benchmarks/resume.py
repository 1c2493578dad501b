"""How long it takes a run of many tasks to go on after a crash: from the command to the first new task.

    python benchmarks/resume.py [--folder DIR] [--repeats N] [TASKS...]

The tasks have arguments and values of their own. The session kills itself when all are done; `rhapsody run --resume` is
timed from its start until a task that was not there before begins. Peak memory is that of the resuming session.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

REPEATS = 3
CAMPAIGN = """
import asyncio, os, signal, time
from pathlib import Path
from rhapsody import ComputeTask

def square(number):
    return number * number

def stamp():
    return time.time()

async def campaign(session, args):
    count, marker = int(args[0]), Path("marker")
    tasks = [ComputeTask(square, args=(number,)) for number in range(count)]
    await session.submit(tasks)
    await session.wait()
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    assert [task.return_value for task in tasks] == [number * number for number in range(count)]
    new = ComputeTask(stamp)
    await session.submit(new)
    Path("began").write_text(repr((await new).return_value))
"""


def rhapsody(folder: Path, *arguments: str) -> int:
    """Run the command; return the exit code."""
    command = [sys.executable, "-m", "rhapsody", "run", "--quiet", "--cores", "2", "--runs", "runs", *arguments]
    return subprocess.run(command, cwd=folder, check=False).returncode  # noqa: S603 - our own


def measure(parent: Path, count: int) -> float:
    """Return the seconds from the command until the first new task."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / "many.py").write_text(CAMPAIGN)
    if rhapsody(folder, "many.py", str(count)) != -9:
        raise SystemExit("the session was not killed")
    (run_dir,) = (folder / "runs").iterdir()
    while not list((run_dir / "journal").glob("left.*")):  # its guardian is still at work
        time.sleep(0.05)
    before = time.time()
    if rhapsody(folder, "--resume", str(run_dir)) != 0:
        raise SystemExit("the run did not go on")
    took_s = float((folder / "began").read_text()) - before
    shutil.rmtree(folder)
    return took_s


def main() -> None:
    """Print a line for each number of tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--folder", type=Path, default=None)
    chosen = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

    print(f"{'tasks':>10}  seconds to the first new task (median of {chosen.repeats})  peak memory so far, MB")
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        for count in chosen.tasks:
            took_s = median(measure(Path(name), count) for _ in range(chosen.repeats))
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            print(f"{count:>10,}  {took_s:.2f}  {peak:,.0f}", flush=True)


if __name__ == "__main__":
    main()
