"""Router and gateway over processes of the stand-in engine, one of which is killed."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import openai

from rhapsody.inference.breaker import BreakerSettings
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.inference.router import Limits, Router
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = "stand-in/small"
TOKEN = "token-of-the-gateway"  # noqa: S105 - of these tests
LIMITS = Limits(per_replica=8, tick_s=0.02, breaker=BreakerSettings(first_pause_s=0.1))


@asynccontextmanager
async def engine(folder: Path, name: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Replica]]:
    """Run a stand-in engine; give the process and its replica."""
    key, port = folder / "key", folder / f"{name}.port"
    key.write_text("key-of-the-engines")
    key.chmod(0o600)
    argv = ["-m", "rhapsody.inference.engine_sim", "--model", "small", "--speed", "5"]
    files = ["--port-file", str(port), "--api-key-file", str(key)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, *files, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: port.exists() and port.read_text().strip(), within_s=30)
        yield process, Replica(name, f"http://127.0.0.1:{port.read_text().strip()}", MODEL, key_in_file(key))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_requests_survive_an_engine_that_is_killed(tmp_path: Path) -> None:
    async with (
        engine(tmp_path, "r1") as (first, one),
        engine(tmp_path, "r2") as (_, two),
        Router("round_robin", LIMITS) as router,
        Gateway(router, "127.0.0.1", 0, TOKEN) as gateway,
        openai.AsyncOpenAI(base_url=gateway.url, api_key=TOKEN, max_retries=0) as client,
    ):
        router.add(one)
        router.add(two)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(client.completions.create(model=MODEL, prompt=f"prompt {number}", max_tokens=24))
                for number in range(40)
            ]
            await eventually(lambda: sum(task.done() for task in tasks) >= 4, within_s=20)
            first.send_signal(signal.SIGKILL)

        texts = [task.result().choices[0].text for task in tasks]

        assert router.counters.tried_again > 0
        assert not router.replicas["r1"].is_ready
    for number, text in enumerate(texts):
        assert hashlib.sha256(f"prompt {number}".encode()).hexdigest()[:16] in text
