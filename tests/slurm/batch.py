"""A campaign as a batch job: its script made, submitted, and looked at."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.deploy.script.from_site import Deployment, script_for
from rhapsody.deploy.script.render import render_script
from rhapsody.deploy.sites.loading import SITE_PATH, load_site
from rhapsody.deploy.validation.request import Request
from rhapsody.deploy.validation.rules import resolve
from rhapsody.session.run_folder import create_run_folder
from tests.eventually import eventually
from tests.slurm.cluster import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.slurm.cluster import Cluster, JobState

BIN = Path(sys.executable).parent
RHAPSODY, AGENT = str(BIN / "rhapsody"), str(BIN / "rhapsody-node")
CAMPAIGN = Path(__file__).with_name("campaign.py")
SITES = Path(__file__).with_name("sites")
REQUEST = Request(nodes=2, walltime_s=600, account=ACCOUNT, queue="debug")
GONE = frozenset({"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"})
_ASK_EVERY_S = 0.2


class Batch:
    """A job of a campaign on a cluster.

    Args:
        cluster: Where.
        folder: For the run folder, and for what tasks write down.

    Attributes:
        folder: What tasks write down.
        job_id: Empty until it is submitted.
        run_dir: The run folder.
    """

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.folder = folder / "said"
        self.folder.mkdir()
        self.run_dir = create_run_folder("test", folder / "runs")
        self.job_id = ""
        self._asked_s = 0.0

    def write(self, what: str = "stays", request: Request = REQUEST, **changes: Any) -> Path:  # noqa: ANN401
        """Write the script of a job and return its path.

        Args:
            what: The campaign's first argument.
            request: Of the job.
            changes: Of what else is deployed, by the names of `Deployment`.
        """
        script = self.run_dir / "deploy/job.sh"
        run = (RHAPSODY, "run", "--backend", "local", "--cores", "1")
        deployment = Deployment(
            run_dir=str(self.run_dir),
            work_dir=str(self.folder),
            script_path=str(script),
            command=(*run, "--run-dir", str(self.run_dir), str(CAMPAIGN), "--", what, str(self.folder)),
            resume_command=(*run, "--resume", str(self.run_dir)),
            agent=(AGENT,),
        )
        resolved = resolve(load_site("slurm-test", {SITE_PATH: str(SITES)}), request)
        script.write_text(render_script(script_for(resolved, replace(deployment, **changes))))
        return script

    def submit(self, what: str = "stays", request: Request = REQUEST, **changes: Any) -> None:  # noqa: ANN401
        """Write the script of a job, as `write` does, and submit it."""
        done = self.cluster.run(["sbatch", "--parsable", str(self.write(what, request, **changes))])
        assert done.returncode == 0, done.stderr
        self.job_id = done.stdout.strip()

    def signal(self, name: str) -> None:
        """Send the script a signal, as `scancel` does."""
        done = self.cluster.run(["scancel", "--batch", f"--signal={name}", self.job_id])
        assert done.returncode == 0, done.stderr

    async def reaches(self, is_so: Callable[[JobState], bool], what: str, *, within_s: float = 40) -> JobState:
        """Return how the job is once the controller says that this is so of it."""
        seen: list[JobState] = []

        def looks() -> bool:
            if time.monotonic() < self._asked_s + _ASK_EVERY_S:
                return False
            seen[:] = [self.cluster.job(self.job_id)]
            self._asked_s = time.monotonic()
            return is_so(seen[0])

        await self._until(looks, what, within_s)
        return seen[0]

    async def ends(self, *, within_s: float = 60) -> JobState:
        """Return how the job is once it has ended for good."""
        return await self.reaches(lambda job: job.state in GONE, "the job ends", within_s=within_s)

    async def says(self, text: str, *, within_s: float = 30) -> None:
        """Return once the output of the job has a text."""
        await self._until(lambda: text in self.said, f"it says {text!r}", within_s)

    async def stays(self, count: int, *, within_s: float = 30) -> None:
        """Return once so many tasks have been started, all attempts counted."""
        await self._until(lambda: len([*self.folder.glob("up.*")]) >= count, f"{count} tasks have started", within_s)

    def go(self) -> None:
        """Let tasks that stay end."""
        (self.folder / "go").touch()

    async def nothing_is_left(self) -> None:
        """Return once nothing of any job runs on any host; nothing lies about either."""
        running: list[str] = []

        def looks() -> bool:
            if time.monotonic() >= self._asked_s + _ASK_EVERY_S:
                running[:] = self.cluster.running()
                self._asked_s = time.monotonic()
                return not running
            return False

        await self._until(looks, "nothing is left running", 20)
        assert self.cluster.leftovers() == []

    async def _until(self, is_so: Callable[[], bool], what: str, within_s: float) -> None:
        try:
            await eventually(is_so, within_s=within_s, what=what)
        except AssertionError as exc:
            job = self.cluster.job(self.job_id)
            running = "\n".join(self.cluster.running())
            raise AssertionError(f"{exc}; {job}; runs:\n{running}\nthe job said:\n{self.said}") from None

    @property
    def said(self) -> str:
        """What the job, all its starts together, has printed so far."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.run_dir.glob("deploy/job-*.out")))

    @property
    def found(self) -> Any:  # noqa: ANN401 - as the campaign has it
        """What came of the campaign."""
        return json.loads(self.said.rpartition("found ")[2].partition("\n")[0])

    @property
    def records(self) -> list[tuple[int, str, int | None]]:
        """What the script wrote down of itself: restart, event and exit code."""
        lines = (self.run_dir / "deploy/jobs").read_text().splitlines()
        return [(each["restart"], each["event"], each["exit_code"]) for each in map(json.loads, lines)]
