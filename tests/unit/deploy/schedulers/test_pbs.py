"""PBS's commands, from fakes on PATH."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.schedulers.batch import JobLook, JobPhase
from rhapsody.deploy.schedulers.pbs import Pbs
from rhapsody.errors import BackendError, SpecError
from tests.unit.deploy.schedulers.conftest import RECORDED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.deploy.schedulers.conftest import Machine

DAY_S = 1_800_000_000.0
"""2027-01-15 08:00:00 UTC; the jobs ran from 08:10 on."""
RAN = "Job run at Fri Jan 15 at 08:10 on (x1000:ncpus=64)+(x1001:ncpus=64)"


def look_at(machine: Machine, recorded: str, job_id: str) -> JobLook:
    machine.answers("qstat", (RECORDED / f"qstat-{recorded}.json").read_text())
    return Pbs().look([job_id])[job_id]


def look_at_end(machine: Machine, status: int, comment: str = "", substate: int = 93) -> JobLook:
    said = f'"Exit_status": {status}, "comment": "{comment}", "substate": {substate}, "stime": {DAY_S:.0f}'
    machine.answers("qstat", f'{{"Jobs": {{"1.pbs": {{"job_state": "F", {said}}}}}}}')
    return Pbs().look(["1.pbs"])["1.pbs"]


class TestSubmit:
    def test_the_job_id_is_what_qsub_prints(self, machine: Machine, script: Path) -> None:
        machine.answers("qsub", "123.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov\n")

        assert Pbs().submit(script) == "123.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov"
        assert machine.calls("qsub")[0].words == [str(script)]

    @pytest.mark.parametrize(
        ("said", "means"),
        [
            ("Unknown queue", "no such queue"),
            ("Invalid Account", "the account is wrong"),
            ("Job violates queue and/or server resource limits", "number of nodes or the time"),
            ("Job rejected by all possible destinations", "number of nodes or the time"),
            ("Unknown resource filesystemz", "a resource of the script"),
            ("Invalid Job Dependency", "no such job to wait for"),
            ("Unauthorized Request ", "may not submit jobs here"),
            ("request rejected as filesystems attribute not set", "a rule of this site"),
        ],
    )
    def test_what_pbs_refuses_is_the_inputs_fault(self, machine: Machine, script: Path, said: str, means: str) -> None:
        machine.answers("qsub", stderr=f"qsub: {said}\n", code=1)

        with pytest.raises(SpecError, match=f"PBS refuses the job: .*{means}.*It said: qsub: {said.strip()}"):
            Pbs().submit(script)

    @pytest.mark.parametrize(
        "said",
        [
            "Connection refused\nqsub: cannot connect to server pbs (errno=111)",
            "qsub: Maximum number of jobs for user ada already in queue debug",
            "qsub: would exceed queue debug's per-user limit",
            "qsub: Queue is not enabled",
        ],
    )
    def test_what_may_pass_is_not_the_inputs_fault(self, machine: Machine, script: Path, said: str) -> None:
        machine.answers("qsub", stderr=said + "\n", code=1)

        with pytest.raises(BackendError, match="PBS refuses the job"):
            Pbs().submit(script)

    def test_there_is_no_trial(self) -> None:
        with pytest.raises(SpecError, match="PBS has no such check; --dry-run shows the script"):
            Pbs().test("#!/bin/bash\n")


class TestLook:
    def test_a_job_in_the_queue_says_why_it_waits_and_when_it_may_begin(self, machine: Machine) -> None:
        look = look_at(machine, "queued", "101.pbs")

        assert (look.phase, look.native, look.starts_s) == (JobPhase.QUEUED, "Q", DAY_S + 3600)
        assert look.reason == "Not Running: Insufficient amount of resource: ncpus"
        assert look.nodes == ""
        (call,) = machine.calls("qstat")
        assert call.words == ["-x", "-f", "-F", "json", "101.pbs"]
        assert call.environ["TZ"] == "UTC"

    def test_a_running_job_says_where_it_runs_and_until_when(self, machine: Machine) -> None:
        look = look_at(machine, "running", "102.pbs")

        assert (look.phase, look.nodes) == (JobPhase.RUNNING, "x1000/0*64+x1001/0*64")
        assert (look.began_s, look.ends_s, look.restarts) == (DAY_S + 600, DAY_S + 4200, 0)

    def test_a_job_that_ended_well_has_exit_code_0(self, machine: Machine) -> None:
        look = look_at(machine, "finished", "103.pbs")

        assert (look.phase, look.exit_code, look.reason, look.ends_s) == (JobPhase.COMPLETED, 0, "", DAY_S + 1200)

    def test_a_job_that_failed_has_its_exit_code_and_restarts(self, machine: Machine) -> None:
        look = look_at(machine, "failed", "108.pbs")

        assert (look.phase, look.exit_code, look.restarts) == (JobPhase.FAILED, 3, 1)

    def test_a_job_that_ran_out_of_time_says_so(self, machine: Machine) -> None:
        look = look_at(machine, "walltime", "104.pbs")

        assert (look.phase, look.exit_code) == (JobPhase.TIMEOUT, None)
        assert look.reason == f"it was still running at its time limit ({RAN} and exceeded resource walltime)"

    def test_a_job_that_was_deleted_while_it_ran_is_cancelled(self, machine: Machine) -> None:
        look = look_at(machine, "deleted", "105.pbs")

        assert (look.phase, look.exit_code, look.began_s) == (JobPhase.CANCELLED, 143, DAY_S + 600)

    def test_a_job_that_was_deleted_in_the_queue_is_cancelled_and_has_no_exit_code(self, machine: Machine) -> None:
        look = look_at(machine, "deleted-in-queue", "106.pbs")

        assert (look.phase, look.exit_code, look.began_s) == (JobPhase.CANCELLED, None, None)

    def test_a_held_job_says_so(self, machine: Machine) -> None:
        look = look_at(machine, "held", "107.pbs")

        assert look.phase is JobPhase.QUEUED
        assert look.reason.startswith("is held; Job held by ada")

    @pytest.mark.parametrize(
        ("status", "comment", "phase", "exit_code"),
        [
            (-27, "", JobPhase.OUT_OF_MEMORY, None),
            (-28, "", JobPhase.FAILED, None),
            (-20, "", JobPhase.NODE_FAIL, None),
            (-3, "", JobPhase.FAILED, None),
            (265, f"{RAN} and failed", JobPhase.FAILED, 137),
            (271, f"{RAN} and terminated", JobPhase.CANCELLED, 143),
            (1, "Job rejected by all possible destinations", JobPhase.REJECTED, 1),
        ],
    )
    def test_each_kind_of_end_has_a_phase(
        self, machine: Machine, status: int, comment: str, phase: JobPhase, exit_code: int | None
    ) -> None:
        look = look_at_end(machine, status, comment)

        assert (look.phase, look.exit_code, look.phase.is_over) == (phase, exit_code, True)

    def test_jobs_that_are_known_are_told_though_others_are_not(self, machine: Machine) -> None:
        text = (RECORDED / "qstat-running.json").read_text()
        machine.answers("qstat", text, stderr="qstat: Unknown Job Id 999.pbs\n", code=153)

        looks = Pbs().look(["999.pbs", "102"])

        assert [look.phase for look in looks.values()] == [JobPhase.FORGOTTEN, JobPhase.RUNNING]
        assert looks["102"].job_id == "102"
        assert "a routing queue threw it away" in looks["999.pbs"].reason

    def test_a_server_that_does_not_answer_leaves_jobs_unknown_with_the_reason(self, machine: Machine) -> None:
        machine.answers("qstat", stderr="qstat: cannot connect to server pbs (errno=111)\n", code=111)

        look = Pbs().look(["1.pbs"])["1.pbs"]

        assert look.phase is JobPhase.UNKNOWN
        assert look.reason == "qstat cannot tell: qstat: cannot connect to server pbs (errno=111)"

    def test_a_server_without_history_is_asked_without_it(self, machine: Machine) -> None:
        answer = machine.folder / "answer"
        answer.write_text((RECORDED / "qstat-running.json").read_text())
        machine.runs(
            "qstat",
            'if [ "$1" = -x ]; then echo "qstat: PBS is not configured to maintain job history" >&2; exit 1; fi\n'
            f"/bin/cat {answer}",
        )

        looks = Pbs().look(["102.pbs", "1.pbs"])

        assert looks["102.pbs"].phase is JobPhase.RUNNING
        assert "does not remember jobs that have ended" in looks["1.pbs"].reason

    def test_values_without_quotes_that_are_no_json_are_understood(self, machine: Machine) -> None:
        text = (RECORDED / "qstat-running.json").read_text().replace('"Job_Name":"demo"', '"Job_Name":007')
        machine.answers("qstat", text)

        assert '"Job_Name":007' in text
        assert Pbs().look(["102.pbs"])["102.pbs"].phase is JobPhase.RUNNING

    def test_an_answer_that_is_no_json_leaves_jobs_unknown(self, machine: Machine) -> None:
        machine.answers("qstat", "Job Id: 1.pbs\n")

        assert "did not answer in JSON" in Pbs().look(["1.pbs"])["1.pbs"].reason

    def test_a_command_that_hangs_is_given_up(self, machine: Machine) -> None:
        machine.runs("qstat", "/bin/sleep 60; exit 0")

        assert "did not answer within 0.2 s" in Pbs(limit_s=0.2).look(["1.pbs"])["1.pbs"].reason


class TestSignals:
    def test_a_signal_is_sent_by_name(self, machine: Machine) -> None:
        machine.answers("qsig")

        Pbs().signal("1.pbs", "SIGUSR1")

        assert machine.calls("qsig")[0].words == ["-s", "USR1", "1.pbs"]

    @pytest.mark.parametrize("said", ["Unknown Job Id 1.pbs", "Job has finished 1.pbs"])
    def test_the_end_of_a_job_that_has_ended_is_no_error(self, machine: Machine, said: str) -> None:
        machine.answers("qdel", stderr=f"qdel: {said}\n", code=35)

        Pbs().cancel("1.pbs")

        assert machine.calls("qdel")[0].words == ["1.pbs"]

    def test_a_server_that_does_not_answer_is_an_error(self, machine: Machine) -> None:
        machine.answers("qdel", stderr="qdel: cannot connect to server pbs (errno=111)\n", code=111)

        with pytest.raises(BackendError, match="cannot connect"):
            Pbs().cancel("1.pbs")
