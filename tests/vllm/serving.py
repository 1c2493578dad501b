"""The serving campaign as `rhapsody run` runs it, and its replicas, from outside."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.services.endpoints import find_endpoint
from rhapsody.services.record import read_records
from tests.hosts.started import Started
from tests.leftovers import processes
from tests.vllm import serving_campaign

if TYPE_CHECKING:
    from rhapsody.services.record import ReplicaRecord

CHECKOUT = Path(__file__).parents[2]
VLLM = CHECKOUT / ".venv-vllm/bin/vllm"
RHAPSODY = str(Path(sys.executable).with_name("rhapsody"))
MODEL = serving_campaign.MODEL
START_LIMIT_S = 220.0
END_LIMIT_S = 60.0
_POLL_S = 0.1
_ENGINE = b"VLLM::EngineCore"
"""What vLLM calls the process that computes."""


class Serving:
    """A run that serves the model.

    Args:
        model: Folder of the model.
        folder: For the run, and what it prints.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self._stop = folder / "stop"
        self._runs = folder / "runs"
        python = str(VLLM.with_name("python"))
        argv = [RHAPSODY, "run", serving_campaign.__file__, "--backend", "local", "--cores", "4", "--quiet"]
        env = {"RHAPSODY_RUNS": str(self._runs)}
        self.started = Started([*argv, "--", python, str(model), str(self._stop)], env, folder / "said")

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        (found,) = self._runs.iterdir()
        return found

    def found(self) -> Any:  # noqa: ANN401 - as the campaign has it
        """Return what the campaign's own tasks found, once they have ended.

        Raises:
            RuntimeError: It ended before, or takes too long.
        """
        deadline = time.monotonic() + START_LIMIT_S
        while "\nfound {" not in f"\n{self.started.said}":
            if self.started.code is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the model is not served:\n{self.last_words()}")
            time.sleep(_POLL_S)
        return json.loads(self.started.said.partition("found ")[2].partition("\n")[0])

    @property
    def url(self) -> str:
        """Of the gateway."""
        return find_endpoint(self.run_dir, "llm").url

    @property
    def token(self) -> str:
        """What the gateway's clients show."""
        file = find_endpoint(self.run_dir, "llm").key_file
        return Path(file or "").read_text().strip()

    @property
    def key(self) -> str:
        """What the replicas want to see."""
        return str(json.loads((self.run_dir / "services/llm/secrets.json").read_text())["VLLM_API_KEY"])

    @property
    def replicas(self) -> tuple[ReplicaRecord, ...]:
        """How the replicas are."""
        (record,) = read_records(self.run_dir)
        return record.replicas

    def ready(self) -> list[str]:
        """Return the addresses of the replicas that are ready."""
        return [replica.url for replica in self.replicas if replica.url]

    def restarts(self) -> int:
        """Return how often replicas were started again."""
        return sum(replica.restarts for replica in self.replicas)

    def pid_of(self, url: str) -> int:
        """Return the process that a replica's launcher became: it leads the replica's process group."""
        port = int(url.rpartition(":")[2])
        for file in (self.run_dir / "services/llm").glob("*/rank-0.json"):
            said = json.loads(file.read_text())
            if said["port"] == port:
                return int(said["pid"])
        raise AssertionError(f"no replica listens at {url}")

    def kill(self, url: str, *, engine_only: bool) -> None:
        """Kill a replica outright: all of its processes, or only the one that computes, which the other sees."""
        leader = self.pid_of(url)
        group = [pid for pid in processes() if _group_of(pid) == leader]
        engines = [pid for pid in group if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(_ENGINE)]
        for pid in engines if engine_only and engines else group:
            os.kill(pid, signal.SIGKILL)

    def end(self) -> int:
        """Have it end in good order; return its exit code."""
        self._stop.touch()
        deadline = time.monotonic() + END_LIMIT_S
        while self.started.code is None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        code = self.started.code
        self.started.reap()
        assert code is not None, f"it does not end:\n{self.last_words()}"
        return code

    def last_words(self) -> str:
        """Return the end of what it and its replicas said."""
        logs = sorted(self._runs.glob("*/logs/service.*.err"))
        ends = [f"{log.name}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]) for log in logs]
        return "\n".join([self.started.said[-3000:], *ends])


def _group_of(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0
