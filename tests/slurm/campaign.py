"""The campaign that jobs of tests run; its first argument says what, its last line is what came of it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ComputeTask, Policy

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


WHAT = {"stays": stay, "fails": fail}


async def campaign(session: Session, args: list[str]) -> None:
    """Run two tasks for each core; say how each ended and what it returned."""
    what, folder = args
    if what == "blocks":
        time.sleep(LONGEST_S)  # noqa: ASYNC251 - nothing of it can end in good order meanwhile
        return
    function, spread = WHAT[what], Policy(placement="spread")
    cores = session.allocation.usable_cores
    tasks = [ComputeTask(function, args=(folder,), policy=spread, idempotent=True) for _ in range(2 * cores)]
    await session.submit(tasks)
    await session.wait()
    for task in tasks:
        await task
    sys.stdout.write(f"found {json.dumps([task.return_value for task in tasks])}\n")
