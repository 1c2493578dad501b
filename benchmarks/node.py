"""Commands through the agents of two nodes: time there and back, many one after the other, bytes, and an idle agent.

Run it with `python benchmarks/node.py`. Both nodes are this machine, so no network is in the numbers. Ends with exit
code 1 if the agent has more descriptors or children after all commands than before, or uses 1 % of a core when idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

IDLE_S = 10.0
MOST_IDLE_SHARE = 0.01
STREAM_BYTES = 500_000_000


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description="Commands through the agents of two nodes.")
    parser.add_argument("--commands", type=int, default=10_000, help="one after the other")
    parser.add_argument("--at-a-time", type=int, default=1, help="so many, each with as many others beside it")
    options = parser.parse_args()
    with job() as env:
        agent = int(ssh(env, "ps -o ppid= -p $$"))
        idle = idle_share(agent)
        print(f"idle agent: {100 * idle:.2f} % of a core over {IDLE_S:g} s")
        before = Held.by(agent)
        seconds = many(env, options.commands, options.at_a_time)
        after = Held.by(agent)
        tell_times(seconds, options.at_a_time)
        print(f"agent before: {before}\nagent after:  {after}")
        tell_rate(env, "stdout", f"head -c {STREAM_BYTES} /dev/zero", "")
        tell_rate(env, "stdin", "cat > /dev/null", f"head -c {STREAM_BYTES} /dev/zero | ")
    leaks = after.descriptors > before.descriptors or after.children > before.children
    return 1 if leaks or idle > MOST_IDLE_SHARE else 0


@contextmanager
def job() -> Iterator[dict[str, str]]:
    """Run agents of nodes `alpha` and `beta`; yield the environment of alpha's session."""
    agent = str(Path(sys.executable).with_name("rhapsody-node"))
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TMPDIR": folder}
        common = [agent, "--run-dir", f"{folder}/run", "--nodes", "2"]
        beta = subprocess.Popen([*common, "--rank", "1", "--name", "beta"], env=env)  # noqa: S603 - our own
        session = ["--", "sh", "-c", 'echo "$PATH"; exec sleep 100000']
        output = Path(folder, "output")
        with output.open("w") as file:
            alpha = subprocess.Popen([*common, "--rank", "0", "--name", "alpha", *session], env=env, stdout=file)  # noqa: S603
        try:
            while not output.read_text().endswith("\n"):
                time.sleep(0.05)
            yield env | {"PATH": output.read_text().strip()}
        finally:
            alpha.terminate()
            alpha.wait()
            beta.wait()


def ssh(env: Mapping[str, str], command: str) -> str:
    """Run a command on beta and return what it printed."""
    argv = ["ssh", "-n", "beta", command]
    return subprocess.run(argv, env=env, check=True, capture_output=True, text=True).stdout  # noqa: S603


class Held:
    """What a process holds."""

    def __init__(self, descriptors: int, children: int, memory_kib: int) -> None:
        self.descriptors = descriptors
        self.children = children
        self.memory_kib = memory_kib

    @classmethod
    def by(cls, pid: int) -> Held:
        """Look at a process."""
        proc = Path(f"/proc/{pid}")
        status = (proc / "status").read_text()
        memory = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        children = (proc / f"task/{pid}/children").read_text().split()
        return cls(len(list((proc / "fd").iterdir())), len(children), int(memory.split()[1]))

    def __str__(self) -> str:
        return f"{self.descriptors} descriptors, {self.children} children, {self.memory_kib / 1024:.1f} MiB"


def idle_share(pid: int) -> float:
    """Return how much of a core a process uses."""
    before = cpu_s(pid)
    time.sleep(IDLE_S)
    return (cpu_s(pid) - before) / IDLE_S


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process. Source: proc_pid_schedstat, in nanoseconds."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def many(env: Mapping[str, str], count: int, at_a_time: int) -> list[float]:
    """Run `true` on beta so often; return the seconds each time."""
    seconds = []
    argv = ["ssh", "-n", "beta", "true"]
    for _ in range(count // at_a_time):
        started = time.perf_counter()
        running = [subprocess.Popen(argv, env=env) for _ in range(at_a_time)]  # noqa: S603
        if any(popen.wait() for popen in running):
            raise RuntimeError("a command failed")
        seconds.append(time.perf_counter() - started)
    return seconds


def tell_times(seconds: list[float], at_a_time: int) -> None:
    """Print median and 99th percentile."""
    ordered = sorted(seconds)
    p99 = ordered[int(0.99 * (len(ordered) - 1))]
    count = len(seconds) * at_a_time
    print(
        f"{count} commands, {at_a_time} at a time: median {1e3 * statistics.median(ordered):.1f} ms,"
        f" p99 {1e3 * p99:.1f} ms, {count / sum(seconds):.0f}/s"
    )


def tell_rate(env: Mapping[str, str], stream: str, command: str, before: str) -> None:
    """Print how quickly bytes pass."""
    started = time.perf_counter()
    script = f"{before}ssh beta '{command}' > /dev/null"
    subprocess.run(["/bin/sh", "-c", script], env=env, check=True)  # noqa: S603
    seconds = time.perf_counter() - started
    print(f"{stream}: {STREAM_BYTES / 1e6 / seconds:.0f} MB/s")


if __name__ == "__main__":
    sys.exit(main())
