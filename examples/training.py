"""A training as a service: started with two processes, waited for, and used by a task.

    rhapsody run examples/training.py --cores 2 PYTHON

PYTHON is the interpreter of an environment that has torch; RHAPSODY's own need not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ComputeTask, ServiceTask

if TYPE_CHECKING:
    from rhapsody import Session

SCRIPT = Path(__file__).with_name("train_sine.py")
STEPS = 500


def look(folder: str) -> str:
    """Return what is known of the last checkpoint."""
    path = max(Path(folder).glob("step-*.pt"))
    return f"{path.name} has {path.stat().st_size} bytes"


async def campaign(session: Session, args: list[str]) -> None:
    """Train; the first argument is the interpreter, the second the number of steps."""
    python = args[0] if args else sys.executable
    steps = args[1] if args[1:] else STEPS
    training = await session.start(ServiceTask.torchrun(SCRIPT, steps, python=python, processes_per_node=2))
    found = ComputeTask(look, args=(str(training.state_dir / "checkpoints/0"),), needs=[training])  # once it is done
    await session.submit(found)
    await training.done()
    print(f"trained, after {training.status[0].restarts} restarts: {(await found).return_value}")
