"""A user at the login node: types commands of RHAPSODY, and sees what they say."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.eventually import eventually
from tests.slurm.cluster import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.hosts.started import Started
    from tests.slurm.cluster import Cluster

RHAPSODY = str(Path(sys.executable).with_name("rhapsody"))
CAMPAIGN = Path(__file__).with_name("campaign.py")
SITES = Path(__file__).with_name("sites")
COMMAND_S = 90.0


class Said(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str


class Desk:
    """A folder on the shared file system, and a shell on the login node.

    Args:
        cluster: Where.
        folder: For run folders, and for what tasks write down.

    Attributes:
        folder: What tasks write down.
        jobs: Ids of the jobs that were submitted here.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder / "said"
        self.folder.mkdir()
        self._runs = folder / "runs"
        self._outputs = 0
        self.jobs: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What the user has set."""
        return {"RHAPSODY_SITE_PATH": str(SITES), "RHAPSODY_RUNS": str(self._runs)}

    def words(self, what: str = "stays", *options: str, nodes: int = 2) -> list[str]:
        """Return the command line of a deployment; of options that are given twice the last one counts."""
        request = ["--site", "slurm-test", "-A", ACCOUNT, "-N", str(nodes), "-t", "10m", "--cores", "1"]
        return ["deploy", *request, *options, str(CAMPAIGN), "--", what, str(self.folder)]

    def type(self, *words: str) -> Said:
        """Run a command of RHAPSODY to its end."""
        return self.shell([RHAPSODY, *words])

    def shell(self, argv: Sequence[str]) -> Said:
        """Run a command to its end."""
        done = self.cluster.run(argv, env=self.environment, timeout=COMMAND_S)
        return Said(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str) -> Started:
        """Start a command of RHAPSODY and leave it running."""
        self._outputs += 1
        output = self.folder / f"command.{self._outputs}"
        return self.cluster.start([RHAPSODY, *words], output, env=self.environment)

    def deploy(self, what: str = "stays", *options: str, nodes: int = 2) -> str:
        """Submit a campaign and return the job's id."""
        said = self.type(*self.words(what, "--json", *options, nodes=nodes))
        assert said.code == 0, said.err
        self.jobs.append(json.loads(said.out)["job_id"])
        return self.jobs[-1]

    def status(self, target: str) -> dict[str, Any]:
        """Return what `rhapsody status` says of a run, for programs."""
        said = self.type("status", target, "--json")
        assert said.code == 0, said.err
        return dict(json.loads(said.out))

    async def phase(self, target: str, phase: str, *, within_s: float = 40) -> dict[str, Any]:
        """Return what the status says of a job once it has a phase."""
        seen: list[dict[str, Any]] = []

        def looks() -> bool:
            seen[:] = [self.status(target)["job"]]
            return bool(seen[0]["phase"] == phase)

        await eventually(looks, within_s=within_s, what=f"the job {target} is {phase}; it was {seen}")
        return seen[0]

    async def stays(self, count: int, *, within_s: float = 40) -> None:
        """Return once so many tasks have been started, all attempts counted."""
        await eventually(
            lambda: len([*self.folder.glob("up.*")]) >= count, within_s=within_s, what=f"{count} tasks run"
        )

    def go(self) -> None:
        """Let tasks that stay end."""
        (self.folder / "go").touch()

    @property
    def runs(self) -> list[Path]:
        """The run folders, the oldest first."""
        return sorted(self._runs.iterdir()) if self._runs.exists() else []

    def printed(self) -> str:
        """Return what the jobs of all runs have printed."""
        return "".join(file.read_text() for run in self.runs for file in sorted(run.glob("deploy/job-*.out")))

    def found(self) -> Any:  # noqa: ANN401 - as the campaign has it
        """Return what came of the campaign."""
        return json.loads(self.printed().rpartition("found ")[2].partition("\n")[0])
