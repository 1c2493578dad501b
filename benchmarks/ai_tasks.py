"""Ten thousand AI tasks at once: what they cost the session, in CPU time and memory. No model is measured.

    python benchmarks/ai_tasks.py [--tasks N] [--replicas N]

The stand-in engines run in processes of their own and take hardly any time of their own, so that nearly all there is
goes into the session and HTTP. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from rhapsody import AITask, Session
from rhapsody.inference.engine_texts import nonce_of

MODEL = "stand-in/bench"
START_S = 20.0


def engine(folder: Path, number: int, stack: ExitStack) -> str:
    """Start a stand-in engine in a process of its own; return its URL."""
    port_file = folder / f"port-{number}"
    quick = ["--speed", "1000", "--max-num-seqs", "4096", "--max-num-batched-tokens", "100000"]
    command = [sys.executable, "-m", "rhapsody.inference.engine_sim", "--model", MODEL, "--port-file", str(port_file)]
    process = stack.enter_context(subprocess.Popen([*command, *quick], stderr=subprocess.DEVNULL))  # noqa: S603 - our own
    stack.callback(process.send_signal, signal.SIGTERM)
    until = time.monotonic() + START_S
    while not port_file.exists():
        if time.monotonic() > until or process.poll() is not None:
            raise SystemExit(f"the stand-in engine did not start within {START_S:g} s")
        time.sleep(0.02)
    return f"http://127.0.0.1:{port_file.read_text().strip()}"


def memory_kb() -> int:
    """Return the memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


async def measure(count: int, urls: list[str], runs: Path) -> dict[str, object]:
    """Ask, and say what that took."""
    async with Session(backend="local", cores=1, runs=runs, name="ai-tasks") as session:
        for url in urls:
            await session.connect_model(url, MODEL)
        await session.submit(AITask("the first one opens what the others use", max_tokens=1))
        await session.wait()
        memory_before = memory_kb()
        tasks = [AITask(f"prompt number {number}", max_tokens=4) for number in range(count)]
        cpu_before, began = time.process_time(), time.perf_counter()
        await session.submit(tasks)
        submitted_s, most_kb = time.perf_counter() - began, memory_kb()
        while not await session.wait(timeout_s=0.1):
            most_kb = max(most_kb, memory_kb())
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
        wrong = sum(
            nonce_of(f"prompt number {number}") not in (task.response or "") for number, task in enumerate(tasks)
        )
    return {
        "tasks": count,
        "replicas": len(urls),
        "wrong_or_lost": wrong,
        "submit_s": round(submitted_s, 3),
        "wall_s": round(took_s, 2),
        "tasks_per_s": round(count / took_s),
        "session_cpu_us_per_task": round(cpu_s * 1e6 / count),
        "memory_kb_per_task": round((most_kb - memory_before) / count, 2),
    }


def main() -> int:
    """Measure, and return the exit code: 1 if an answer was lost or went to another task."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=4)
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        urls = [engine(folder, number, stack) for number in range(options.replicas)]
        found = asyncio.run(measure(options.tasks, urls, folder))
    print(json.dumps(found))
    return 1 if found["wrong_or_lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
