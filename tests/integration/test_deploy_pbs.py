"""`rhapsody deploy` under PBS: its commands are stand-ins that answer as PBS does; some run the script."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.eventually import eventually
from tests.integration.deploying import Desk, end_of

RECORDED = Path(__file__).parents[1] / "unit/deploy/schedulers/recorded"
JOB = "101.pbs"
REQUEST = ["--site", "pbs", "-N", "1", "-t", "1h", "-q", "debug"]

_QSUB = """#!/bin/bash
printf '%s\\n' "$*" >>"$PBS_STATE/qsub"
[[ ! -e $PBS_STATE/refusal ]] || { cat "$PBS_STATE/refusal" >&2; exit 1; }
[[ ! -e $PBS_STATE/runs ]] || {
    printf 'node\\n' >"$PBS_STATE/hosts"
    PBS_JOBID=101.pbs PBS_NODEFILE=$PBS_STATE/hosts setsid bash -l "$1" </dev/null >"$PBS_STATE/output" 2>&1 &
}
echo 101.pbs
"""
_QSTAT = r"""#!/bin/bash
printf '%s\n' "$*" >>"$PBS_STATE/qstat"
answer=$(<"$PBS_STATE/answer")
[[ $answer != none ]] || { echo 'qstat: Unknown Job Id 101.pbs' >&2; exit 153; }
sed -E 's/"[0-9]+\.pbs"/"101.pbs"/' "$answer"
"""
_NOTES = """#!/bin/bash
printf '%s\\n' "$*" >>"$PBS_STATE/${0##*/}"
"""
_MPIEXEC = """#!/bin/bash
while [[ $1 == -* ]]; do case $1 in -n | --ppn | --cpu-bind) shift 2 ;; *) shift ;; esac; done
PMI_RANK=0 PMI_SIZE=1 exec "$@"
"""


class PbsDesk(Desk):
    """A desk where PBS is.

    Attributes:
        state: What its stand-ins are told, and note.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.state = folder / "state"
        self.state.mkdir()
        for name, script in {
            "qsub": _QSUB,
            "qstat": _QSTAT,
            "qdel": _NOTES,
            "qsig": _NOTES,
            "mpiexec": _MPIEXEC,
        }.items():
            self.put(name, script)
        self.answers("queued")

    def answers(self, how: str | None) -> None:
        """Let qstat answer as it was recorded; None: it does not know the job."""
        (self.state / "answer").write_text("none" if how is None else str(RECORDED / f"qstat-{how}.json"))

    def called(self, command: str) -> list[str]:
        """Return the arguments of each call of a command."""
        file = self.state / command
        return file.read_text().splitlines() if file.exists() else []

    def submit(self) -> None:
        """Submit the campaign."""
        ended = self.run("deploy", *REQUEST, "study.py")
        assert ended.code == 0, ended.err

    def forget(self) -> None:
        """Let it be long ago that the job was submitted."""
        jobs = self.runs[0] / "deploy/jobs"
        jobs.write_text(jobs.read_text().replace('"time_s": ', '"time_s": 1, "then_s": '))

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """Return the variables of a command."""
        return super().environment({"PBS_STATE": str(self.state)} | more)


@pytest.fixture
def desk(tmp_path: Path) -> PbsDesk:
    """Where a user sits."""
    return PbsDesk(tmp_path)


def test_a_campaign_is_submitted_with_its_script_and_its_id_kept(desk: PbsDesk) -> None:
    ended = desk.run("deploy", *REQUEST, "study.py")

    (run,) = desk.runs
    assert (ended.code, ended.out) == (0, f"job {JOB} is submitted; run folder {run}\n")
    assert desk.called("qsub") == [str(run / "deploy/job.sh")]
    assert "#PBS -l select=1\n#PBS -l walltime=01:00:00\n" in (run / "deploy/job.sh").read_text()


def test_a_refused_job_leaves_nothing(desk: PbsDesk) -> None:
    (desk.state / "refusal").write_text("qsub: Unknown queue\n")

    ended = desk.run("deploy", *REQUEST, "study.py")

    assert (ended.code, desk.runs) == (2, [])
    assert "Unknown queue" in ended.err


@pytest.mark.parametrize(
    ("recorded", "says"),
    [
        ("queued", f"job         {JOB} QUEUED may start 2027-01-15"),
        ("held", f"job         {JOB} QUEUED: "),
        ("running", f"job         {JOB} RUNNING on "),
        ("finished", f"job         {JOB} COMPLETED"),
        ("failed", f"job         {JOB} FAILED: "),
        ("walltime", f"job         {JOB} TIMEOUT: it was still running at its time limit"),
        ("deleted", f"job         {JOB} CANCELLED"),
        ("deleted-in-queue", f"job         {JOB} CANCELLED"),
    ],
)
def test_the_status_of_a_run_has_that_of_its_job(desk: PbsDesk, recorded: str, says: str) -> None:
    desk.submit()
    desk.answers(recorded)

    for target in ("101", JOB):
        assert says in desk.run("status", target).out
    assert desk.called("qstat")[-1].endswith(JOB)


def test_a_job_that_the_routing_queue_has_thrown_away_is_said_to_be_rejected(desk: PbsDesk) -> None:
    desk.submit()
    desk.answers(None)
    just_now = desk.run("status", JOB).out

    desk.forget()

    assert f"{JOB} QUEUED" in just_now
    assert f"job         {JOB} REJECTED: " in desk.run("status", JOB).out
    assert "NOT BEGUN" in desk.run("list").out
    assert desk.run("attach", JOB).code == 1


def test_cancel_takes_a_job_out_of_the_queue(desk: PbsDesk) -> None:
    desk.submit()

    ended = desk.run("cancel", JOB)

    assert (ended.code, ended.out) == (0, f"the job {JOB} is taken out of the queue\n")
    assert desk.called("qdel") == [JOB]
    assert "CANCELLED" in desk.run("status", JOB).out


def test_cancel_asks_a_job_that_runs_first_and_then_deletes_it(desk: PbsDesk) -> None:
    desk.submit()
    desk.answers("running")

    desk.put("qdel", f"{_NOTES}printf '{RECORDED}/qstat-deleted.json' >\"$PBS_STATE/answer\"\n")
    ended = desk.run("cancel", JOB, "--limit", "1")

    assert (desk.called("qsig"), desk.called("qdel")) == ([f"-s TERM {JOB}"], [JOB])
    assert (ended.code, "it has not ended within 1 s" in ended.err) == (0, True)


def test_the_command_for_an_interactive_job_is_printed(desk: PbsDesk) -> None:
    ended = desk.run("deploy", *REQUEST, "--interactive", "study.py")

    assert ended.out == "qsub -I -N study -q debug -l select=1 -l walltime=01:00:00\n"
    assert "rhapsody deploy --site pbs --here study.py" in ended.err


def test_pbs_cannot_say_when_a_job_would_start(desk: PbsDesk) -> None:
    ended = desk.run("deploy", *REQUEST, "--test-only", "study.py")

    assert (ended.code, desk.runs) == (2, [])
    assert "PBS has no such check" in ended.err


async def test_a_job_runs_the_campaign_and_whoever_follows_sees_its_end(desk: PbsDesk) -> None:
    (desk.state / "runs").touch()

    ended = end_of(desk.start("deploy", *REQUEST, "--cores", "1", "--wait", "study.py"))

    assert ended.code == 0, ended.err + (desk.state / "output").read_text()
    assert "sum 285\n" in (desk.state / "output").read_text()
    await eventually(lambda: f"{JOB} COMPLETED" in desk.run("status").out, within_s=10, what="the status has its end")


def test_a_campaign_runs_in_the_job_that_is_there(desk: PbsDesk) -> None:
    (desk.state / "hosts").write_text("node\n")
    job = {"PBS_JOBID": JOB, "PBS_NODEFILE": str(desk.state / "hosts")}

    ended = desk.run("deploy", "--site", "pbs", "--here", "--cores", "1", "study.py", **job)

    assert (ended.code, ended.out) == (0, "sum 285\n"), ended.err
    assert desk.called("qsub") == []


@pytest.mark.skipif(
    shutil.which("qsub") is None, reason="there is no PBS: install OpenPBS, no package of Debian has it"
)
def test_a_campaign_runs_under_a_real_pbs(tmp_path: Path) -> None:
    queue = os.environ.get("RHAPSODY_TEST_PBS_QUEUE", "workq")
    desk = Desk(tmp_path)

    ended = desk.run(
        "deploy", "--site", "pbs", "-N", "1", "-t", "10m", "-q", queue, "--wait", "study.py", PATH=os.environ["PATH"]
    )

    assert ended.code == 0, ended.err
