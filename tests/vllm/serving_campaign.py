"""The campaign that tests of vLLM look at from outside: two replicas of a model, some AI tasks, then it serves."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import AITask, ComputeTask, Resources, Restart, ServiceTask

if TYPE_CHECKING:
    from rhapsody import Session

MODEL = "tiny"
TOKENS = 16
OPTIONS = {
    "load_format": "dummy",
    "dtype": "float32",
    "enforce_eager": True,
    "kv_cache_memory_bytes": "64M",
    "max_num_seqs": 64,
}
ENV = {
    # Scheduler and worker are one process then: it starts sooner, and leaves nothing in /dev/shm.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}


async def campaign(session: Session, args: list[str]) -> None:
    """Serve a model until a file is there: arguments are the interpreter, the model's folder, and that file."""
    python, model, stop = args
    service = await session.start(
        ServiceTask.vllm(
            model, name="llm", served_as=MODEL, replicas=2, python=python, options=OPTIONS, env=ENV,
            resources=Resources(), restart=Restart(limit=20, delay_s=0.1),
        )
    )  # fmt: skip
    await service.ready()
    echo = {"echo": True, "ignore_eos": True}
    asked = [
        AITask(f"nonce {number}", service=service, max_tokens=TOKENS, parameters=echo, timeout_s=100)
        for number in range(40)
    ]
    too_long = AITask("x" * 5000, service=service, max_tokens=4)
    needing = ComputeTask(executable="sh", arguments=["-c", "echo $RHAPSODY_SERVICE_LLM_URL"], needs=[service])
    length = ComputeTask(len, args=(asked[0],))
    await session.submit([*asked, too_long, needing, length])
    await session.wait()
    found = {
        "answers": [task.response for task in asked],
        "tokens_out": [task.usage.tokens_out if task.usage else None for task in asked],
        "too long": [str(too_long.state), too_long.response, str(too_long.exception)],
        "url": service.url,
        "needing": needing.stdout.strip(),
        "length": length.return_value,
        "counts": session.counts,
    }
    sys.stdout.write(f"found {json.dumps(found)}\n")
    sys.stdout.flush()
    while not Path(stop).exists():  # noqa: ASYNC110 - another process makes it
        await asyncio.sleep(0.1)
    await service.scale(1)  # drained
    sys.stdout.write(f"scaled {len(service.endpoints)}\n")
