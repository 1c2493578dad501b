"""A small version of `benchmarks/killed_replicas.py`: real processes, killed under load."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "killed_replicas.py"
KILLS = 20


async def test_each_prompt_is_answered_once_while_replicas_are_killed() -> None:
    argv = [str(SCRIPT), "--kills", str(KILLS), "--replicas", "3", "--clients", "16", "--up-s", "0.4"]
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, stdout=asyncio.subprocess.PIPE)
    try:
        out, _ = await asyncio.wait_for(process.communicate(), 90)
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()

    told = json.loads(out.decode().splitlines()[-1])
    assert process.returncode == 0, out.decode()
    assert (told["kills"], told["lost"], told["answered_with_anothers"], told["answered_twice"]) == (KILLS, 0, 0, 0)
    assert told["answered"] == told["prompts"] > KILLS
    assert told["tried_again"] > 0
