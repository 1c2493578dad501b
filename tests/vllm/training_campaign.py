"""The campaign that a test of trainings runs over several hosts: one training over all of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ServiceTask

if TYPE_CHECKING:
    from rhapsody import Session

SCRIPT = Path(__file__).parents[2] / "examples" / "train_sine.py"
NO_NAME_SERVER = {"RES_OPTIONS": "timeout:1 attempts:1"}
"""PyTorch asks for the names of addresses; these hosts have nobody to ask. Source: resolv.conf(5), checked 2026-11."""


async def campaign(session: Session, args: list[str]) -> None:
    """Train on all nodes; the arguments are the interpreter, the steps and the folder of checkpoints."""
    python, steps, folder = args
    nodes = len(session.allocation.nodes)
    training = ServiceTask.torchrun(SCRIPT, steps, nodes=nodes, python=python, checkpoints=folder, env=NO_NAME_SERVER)
    await (await session.start(training)).done()
    found = {"restarts": training.status[0].restarts, "run": str(session.run_dir)}
    sys.stdout.write(f"found {json.dumps(found)}\n")
