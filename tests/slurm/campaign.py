"""The campaign that jobs of tests run; its first argument says what, its last line is what came of it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ComputeTask, Policy, Resources

if TYPE_CHECKING:
    from rhapsody import Session

LONGEST_S = 90


def stay(folder: str) -> str:
    """Write down that this runs; return the host once told to, or at once where somebody was told before."""
    (Path(folder) / f"up.{os.environ['RHAPSODY_TASK_UID']}.{os.environ['RHAPSODY_ATTEMPT']}").touch()
    deadline = time.monotonic() + LONGEST_S
    while not (Path(folder) / "go").exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody said go")
        time.sleep(0.02)
    return socket.gethostname()


def fail(_folder: str) -> str:
    """Fail."""
    raise ValueError("of its own")


def meet() -> list[list[str]]:
    """Return for each rank its host, and the image that it runs in."""
    from mpi4py import MPI  # noqa: PLC0415 - only here

    image = Path(os.environ.get("APPTAINER_CONTAINER", "none")) if Path("/.singularity.d").is_dir() else Path("none")
    return [list(pair) for pair in MPI.COMM_WORLD.allgather((socket.gethostname(), image.name))]


WHAT = {"stays": stay, "fails": fail}


async def campaign(session: Session, args: list[str]) -> None:
    """Run two tasks for each core; say how each ended and what it returned."""
    what, folder = args
    if what == "blocks":
        time.sleep(LONGEST_S)  # noqa: ASYNC251 - nothing of it can end in good order meanwhile
        return
    spread, cores = Policy(placement="spread"), session.allocation.usable_cores
    if what == "meets":
        ranks = ComputeTask(meet, resources=Resources(ranks=cores))
        hosts = [ComputeTask(stay, args=(folder,), policy=spread) for _ in range(cores)]
        await session.submit([ranks, *hosts])
        met = [sorted((await ranks).return_value[0]), sorted([(await host).return_value for host in hosts])]
        sys.stdout.write(f"found {json.dumps(met)}\n")
        return
    function = WHAT[what]
    tasks = [ComputeTask(function, args=(folder,), policy=spread, idempotent=True) for _ in range(2 * cores)]
    await session.submit(tasks)
    await session.wait()
    for task in tasks:
        await task
    sys.stdout.write(f"found {json.dumps([task.return_value for task in tasks])}\n")
