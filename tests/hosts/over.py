"""A campaign over several hosts, from outside: started, looked at, and what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.telemetry.reader import read_events
from tests.eventually import eventually
from tests.leftovers import processes

if TYPE_CHECKING:
    from tests.hosts.job import Job
    from tests.hosts.namespaces import Hosts

RHAPSODY = str(Path(sys.executable).with_name("rhapsody"))
FILE = Path(__file__).with_name("campaign.py")


class Campaign:
    """A campaign in a job over hosts.

    Args:
        job: The job; its agent on rank 0 starts the campaign.
        folder: For the run folder, and for what tasks write down.
        hosts: Where the job is.
    """

    def __init__(self, job: Job, folder: Path, hosts: Hosts) -> None:
        self.job, self.hosts = job, hosts
        self.folder = folder / "said"
        self.folder.mkdir()
        self._runs = folder / "runs"

    def start(self, what: str, backend: str, *options: str, cores: int = 1, ranks: list[int] | None = None) -> None:
        """Start agents, on all hosts unless said, and the campaign."""
        run = [RHAPSODY, "run", str(FILE), "--backend", backend, "--cores", str(cores)]
        command = ["env", f"RHAPSODY_RUNS={self._runs}", *run, *options, "--", what, str(self.folder)]
        self.job.start("", command=command, ranks=ranks)

    async def found(self, *, within_s: float = 100) -> Any:  # noqa: ANN401 - as the campaign has it
        """Return what came of it, once it has ended."""
        await self.job.ended(within_s=within_s)
        await self.job.says("found {")
        return json.loads(self.job.agents[0].said.partition("found ")[2].partition("\n")[0])

    @property
    def run_dir(self) -> Path:
        """The run folder."""
        (found,) = self._runs.iterdir()
        return found

    def placed(self) -> dict[str, list[tuple[str, list[int]]]]:
        """Return where the mapper put each task's ranks: host and CPUs."""
        said = json.loads((self.run_dir / "run.json").read_text())["allocation"]["nodes"]
        names, cpus = [node["name"] for node in said], [node["cpus"] for node in said]
        events = [event for event in read_events(self.run_dir, lambda _tail: None) if event.slots]
        return {
            event.uid: [(names[node], sorted(cpus[node][core] for core in cores)) for node, cores, _ in event.slots]
            for event in events
        }

    async def staying(self, count: int) -> dict[str, str]:
        """Return the host of each first attempt that stays, once so many do."""
        await self.job.says("started", within_s=60)
        agent = self.job.agents[0]
        await eventually(
            lambda: self._staying() >= count or agent.code is not None, within_s=60, what=f"{count} tasks run"
        )
        assert agent.code is None, self.job.said()
        return {path.stem: path.read_text() for path in self.folder.glob("*.1")}

    def _staying(self) -> int:
        return len(list(self.folder.glob("*.1")))

    def go(self) -> None:
        """Let tasks that stay end."""
        (self.folder / "go").touch()

    async def nothing_is_left(self) -> None:
        """Return once nothing runs on any host; nothing lies about either."""
        names = self.hosts.names

        def running() -> list[str]:
            return [process for name in names for process in self.hosts.processes(name)]

        await eventually(lambda: not running(), within_s=20, what=f"no process is left: {running()}")
        assert [entry for name in names for entry in self.hosts.leftovers(name)] == []

    def pid_of(self, text: bytes) -> int:
        """Return the first process of the job that has this in its command line, as seen from here."""
        temporary = str(self.hosts.temporary).encode()
        return min(
            pid
            for pid, each in processes().items()
            if text in each.command and temporary in each.environ and b"\0-S\0" not in each.command and not each.ended
        )
