"""A job: an agent on each of some hosts, which may all be this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.eventually import eventually
from tests.hosts.started import Started

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.hosts.namespaces import Hosts

AGENT = str(Path(sys.executable).with_name("rhapsody-node"))


class Here:
    """This machine, as if it were some hosts.

    Args:
        names: Of the hosts.
    """

    def __init__(self, *names: str) -> None:
        self.names = list(names)

    def start(self, name: str, argv: list[str], env: dict[str, str], output: Path) -> Started:  # noqa: ARG002
        """Start a command in a host: here, whatever its name."""
        return Started(argv, env, output)


class Job:
    """Agents of one run on hosts, one on each.

    Args:
        hosts: Where.
        folder: The run folder, and outputs beside it.

    Attributes:
        agents: Those that were started, by rank.
        run_dir: The run folder.
    """

    def __init__(self, hosts: Hosts | Here, folder: Path) -> None:
        self._hosts = hosts
        folder.mkdir()
        self.run_dir = folder / "run"
        self.agents: dict[int, Started] = {}
        self._started: list[Started] = []

    def start(
        self, script: str, *options: str, ranks: list[int] | None = None, command: list[str] | None = None
    ) -> None:
        """Start agents, on all hosts unless said; rank 0's starts a shell script, or a command if given."""
        for rank in range(len(self._hosts.names)) if ranks is None else ranks:
            name = self._hosts.names[rank]
            count = str(len(self._hosts.names))
            argv = [AGENT, "--run-dir", str(self.run_dir), "--nodes", count, "--rank", str(rank), "--name", name]
            argv += options
            argv += ["--", *(["bash", "-c", script] if command is None else command)] if rank == 0 else []
            self.agents[rank] = self._hosts.start(name, argv, {}, self.run_dir.parent / f"{name}.out")
            self._started.append(self.agents[rank])

    async def ended(self, rank: int = 0, *, within_s: float = 60) -> int:
        """Return the exit code of an agent once it has ended."""
        agent = self.agents[rank]
        await self._until(lambda: agent.code is not None, within_s, f"agent {rank} ends")
        assert agent.code is not None
        return agent.code

    async def says(self, text: str, rank: int = 0, *, within_s: float = 20) -> None:
        """Return once an agent, or the script, has printed a text."""
        agent = self.agents[rank]
        await self._until(lambda: text in agent.said, within_s, f"agent {rank} says {text!r}")

    async def _until(self, is_so: Callable[[], bool], within_s: float, what: str) -> None:
        try:
            await eventually(is_so, within_s=within_s, what=what)
        except AssertionError as exc:
            raise AssertionError(f"{exc}; the agents said:\n{self.said()}") from None

    def said(self) -> str:
        """Return what all agents have printed."""
        return "\n".join(f"--- {rank}\n{agent.said}" for rank, agent in self.agents.items())

    def events(self) -> list[dict[str, Any]]:
        """Return what rank 0 wrote down of the nodes."""
        path = self.run_dir / "deploy/nodes/events"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def reap(self) -> None:
        """End all agents that still run."""
        for agent in self._started:
            agent.reap()
