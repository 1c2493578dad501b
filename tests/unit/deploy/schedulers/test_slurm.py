"""Slurm's commands, from fakes on PATH that answer as a real Slurm did."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.schedulers.batch import BatchSystem, JobPhase
from rhapsody.deploy.schedulers.choice import batch_system, held_job
from rhapsody.deploy.schedulers.slurm import Slurm
from rhapsody.deploy.schedulers.slurm_answers import SEPARATOR
from rhapsody.deploy.sites.profile import SchedulerKind
from rhapsody.errors import BackendError, SpecError
from tests.unit.deploy.schedulers.conftest import RECORDED

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.deploy.schedulers.conftest import Machine

BEGAN_S = calendar.timegm((2026, 11, 21, 23, 16, 55))
NOT_KNOWN = "slurm_load_jobs error: Invalid job id specified\n"


def squeue_line(state: str, reason: str = "None", restarts: int = 0) -> str:
    fields = ["7", state, reason, "0", "2026-11-21T23:16:55", "2026-11-21T23:46:55", "node1", str(restarts)]
    return "".join(f"{field:40}{SEPARATOR}" for field in fields) + "\n"


class TestSubmit:
    @pytest.mark.parametrize("said", ["42\n", "42;frontier\n", "welcome to this site\n42\n"])
    def test_the_job_id_is_what_sbatch_prints_last(self, machine: Machine, script: Path, said: str) -> None:
        machine.answers("sbatch", said)

        assert Slurm().submit(script) == "42"
        (call,) = machine.calls("sbatch")
        assert call.words == ["--parsable", str(script)]
        assert call.cwd == str(script.parent)

    def test_variables_that_outdo_the_script_do_not_reach_sbatch_and_no_setting_of_ours_reaches_the_job(
        self, machine: Machine, script: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine.answers("sbatch", "42\n")
        for name in ("SBATCH_ACCOUNT", "SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "SLURM_MPI_TYPE", "SLURM_CONF"):
            monkeypatch.setenv(name, "1")
        monkeypatch.delenv("TZ", raising=False)

        Slurm().submit(script)

        (call,) = machine.calls("sbatch")
        assert {"SLURM_MPI_TYPE", "SLURM_CONF"} <= set(call.environ)
        assert not {"SBATCH_ACCOUNT", "SLURM_JOB_ID", "SLURM_MEM_PER_NODE", "TZ"} & set(call.environ)

    # Recorded from Slurm 22.05.8.
    @pytest.mark.parametrize(
        ("said", "means"),
        [
            ("Invalid account or account/partition combination specified", "the account is wrong"),
            ("Invalid partition name specified", "no such queue"),
            ("Requested time limit is invalid (missing or exceeds some limit)", "the time asked for"),
            ("More processors requested than permitted", "no nodes of this queue"),
            ("Requested node configuration is not available", "no nodes of this queue"),
            ("Node count specification invalid", "no nodes of this queue"),
            ("Invalid qos specification", r"quality of service \(QOS\)"),
            ("Invalid feature specification", "features asked for as constraint"),
            ("Requested reservation is invalid", "no such reservation"),
            ("Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)", "more than your"),
        ],
    )
    def test_what_slurm_refuses_is_the_inputs_fault_in_plain_words_and_its_own(
        self, machine: Machine, script: Path, said: str, means: str
    ) -> None:
        line = f"sbatch: error: Batch job submission failed: {said}"
        machine.answers("sbatch", stderr=line + "\n", code=1)

        with pytest.raises(SpecError, match=f"Slurm refuses the job: .*{means}") as caught:
            Slurm().submit(script)

        assert f"It said: {line}" in str(caught.value)

    @pytest.mark.parametrize(
        "said",
        [
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Job violates accounting/QOS policy (job)",
            "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
            "sbatch: something new",
        ],
    )
    def test_what_may_pass_is_not_the_inputs_fault(self, machine: Machine, script: Path, said: str) -> None:
        machine.answers("sbatch", stderr=said + "\n", code=1)

        with pytest.raises(BackendError, match="It said: sbatch: "):
            Slurm().submit(script)

    def test_an_option_that_sbatch_does_not_know_is_the_inputs_fault(self, machine: Machine, script: Path) -> None:
        machine.answers("sbatch", stderr="sbatch: unrecognized option '--foo'\nTry \"sbatch --help\"\n", code=255)

        with pytest.raises(SpecError, match=r"does not know an option .* It said: .*'--foo' / Try"):
            Slurm().submit(script)

    def test_an_answer_without_a_job_id_is_an_error(self, machine: Machine, script: Path) -> None:
        machine.answers("sbatch", "thank you\n")

        with pytest.raises(BackendError, match="which is no job id"):
            Slurm().submit(script)

    @pytest.mark.usefixtures("machine")
    def test_without_sbatch_it_says_where_to_go(self, script: Path) -> None:
        with pytest.raises(BackendError, match="run this on a login node"):
            Slurm().submit(script)

    def test_a_command_that_hangs_is_given_up(self, machine: Machine, script: Path) -> None:
        machine.runs("sbatch", "/bin/sleep 60; exit 0")

        with pytest.raises(BackendError, match=r"did not answer within 0.2 s"):
            Slurm(limit_s=0.2).submit(script)


class TestTrial:
    def test_it_says_when_the_job_would_begin(self, machine: Machine) -> None:
        machine.answers(
            "sbatch",
            stderr="sbatch: Job 6 to start at 2026-11-21T23:31:53 using 1 processors on nodes node1 in partition p\n",
        )

        said = Slurm().test("#!/bin/bash\n#SBATCH --nodes=1\n")

        assert "begin at 2026-11-21 23:31 UTC, using 1 processors on nodes node1 in partition p." in said
        (call,) = machine.calls("sbatch")
        assert (call.words, call.environ["TZ"]) == (["--test-only"], "UTC")
        assert call.stdin == "#!/bin/bash\n#SBATCH --nodes=1\n"

    def test_a_refusal_is_told_as_for_a_job(self, machine: Machine) -> None:
        said = "allocation failure: Invalid account or account/partition combination specified\n"
        machine.answers("sbatch", stderr=said, code=1)

        with pytest.raises(SpecError, match="the account is wrong"):
            Slurm().test("#!/bin/bash\n")


class TestLook:
    def test_squeue_alone_answers_for_all_that_it_knows(self, machine: Machine) -> None:
        machine.answers("squeue", (RECORDED / "squeue.txt").read_text())
        ids = ["7", "8", "9", "10", "11", "12", "13"]

        looks = Slurm().look(ids)

        assert list(looks) == ids
        assert [look.phase for look in looks.values()] == [
            JobPhase.COMPLETED, JobPhase.FAILED, JobPhase.FAILED, JobPhase.CANCELLED, JobPhase.RUNNING,
            JobPhase.QUEUED, JobPhase.QUEUED,
        ]  # fmt: skip
        assert [look.exit_code for look in looks.values()] == [0, 3, 137, 143, None, None, None]
        running, waiting = looks["11"], looks["12"]
        assert (running.nodes, running.began_s, running.ends_s) == ("node[1-2]", BEGAN_S + 4, BEGAN_S + 1804)
        assert (waiting.began_s, waiting.starts_s) == (None, BEGAN_S + 1804)
        assert waiting.reason == "waits until enough nodes are free (Resources)"
        assert looks["13"].starts_s is None
        assert len(machine.calls("squeue")) == 1

    def test_questions_are_asked_in_utc_and_without_the_users_filters(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        machine.answers("squeue", (RECORDED / "squeue.txt").read_text())
        monkeypatch.setenv("SQUEUE_PARTITION", "other")
        monkeypatch.setenv("SLURM_TIME_FORMAT", "relative")

        Slurm().look(["7"])

        (call,) = machine.calls("squeue")
        assert (call.environ["TZ"], call.environ["SLURM_TIME_FORMAT"]) == ("UTC", "standard")
        assert "SQUEUE_PARTITION" not in call.environ

    def test_what_squeue_forgot_is_asked_of_sacct(self, machine: Machine) -> None:
        machine.answers("squeue", stderr=NOT_KNOWN, code=1)
        machine.answers("sacct", (RECORDED / "sacct.txt").read_text())

        looks = Slurm().look(["8", "9", "10", "11"])

        assert [look.phase for look in looks.values()] == ["FAILED", "FAILED", "CANCELLED", "RUNNING"]
        assert [look.exit_code for look in looks.values()] == [3, 137, None, None]
        assert looks["10"].reason == "was cancelled by the user with the number 0"
        assert looks["11"].ends_s == BEGAN_S + 4 + 1800

    def test_jobs_of_others_are_left_out(self, machine: Machine) -> None:
        machine.answers("squeue", (RECORDED / "squeue.txt").read_text())
        machine.answers("sacct", (RECORDED / "sacct.txt").read_text())

        looks = Slurm().look(["7", "77", "7"])

        assert list(looks) == ["7", "77"]
        assert (looks["77"].phase, looks["77"].reason) == (JobPhase.FORGOTTEN, "Slurm does not know this job")
        assert "--jobs=77" in machine.calls("sacct")[0].words

    @pytest.mark.parametrize(
        ("state", "phase"),
        [
            ("COMPLETING", JobPhase.RUNNING),
            ("CONFIGURING", JobPhase.RUNNING),
            ("SUSPENDED", JobPhase.RUNNING),
            ("STOPPED", JobPhase.RUNNING),
            ("RESIZING", JobPhase.RUNNING),
            ("REQUEUED", JobPhase.QUEUED),
            ("SPECIAL_EXIT", JobPhase.QUEUED),
            ("CANCELLED by 1000", JobPhase.CANCELLED),
            ("REVOKED", JobPhase.CANCELLED),
            ("TIMEOUT", JobPhase.TIMEOUT),
            ("DEADLINE", JobPhase.TIMEOUT),
            ("BOOT_FAIL", JobPhase.NODE_FAIL),
            ("NODE_FAIL", JobPhase.NODE_FAIL),
            ("OUT_OF_MEMORY", JobPhase.OUT_OF_MEMORY),
            ("PREEMPTED", JobPhase.PREEMPTED),
            ("NEW_WORD", JobPhase.UNKNOWN),
        ],
    )
    def test_each_state_of_slurm_has_a_phase(self, machine: Machine, state: str, phase: JobPhase) -> None:
        machine.answers("squeue", squeue_line(state))

        look = Slurm().look(["7"])["7"]

        assert (look.phase, look.native) == (phase, state.split(maxsplit=1)[0])

    def test_a_requeued_job_waits_and_counts_its_restarts(self, machine: Machine) -> None:
        machine.answers("squeue", squeue_line("PENDING", "BeginTime", restarts=2))

        look = Slurm().look(["7"])["7"]

        assert (look.phase, look.restarts, look.reason) == (JobPhase.QUEUED, 2, "may not begin yet (BeginTime)")

    def test_a_job_that_was_cancelled_in_the_queue_never_began_and_waits_no_more(self, machine: Machine) -> None:
        machine.answers("squeue", squeue_line("CANCELLED", "BeginTime").replace("node1", "     "))

        look = Slurm().look(["7"])["7"]

        assert (look.phase, look.reason, look.began_s) == (JobPhase.CANCELLED, "", None)
        assert look.ends_s == BEGAN_S + 1800

    def test_sacct_tells_restarts_by_the_starts_that_ended_in_the_queue(self, machine: Machine) -> None:
        states = ["COMPLETED", "PREEMPTED", "NODE_FAIL", "TIMEOUT"]  # the first is an older job of the same number
        tail = ["None", "0:0", "2026-11-21T23:16:55", "2026-11-21T23:46:55", "node1", "30"]
        machine.answers("squeue", stderr=NOT_KNOWN, code=1)
        machine.answers("sacct", "".join(SEPARATOR.join(["7", state, *tail]) + "\n" for state in states))

        look = Slurm().look(["7"])["7"]

        assert (look.phase, look.restarts) == (JobPhase.TIMEOUT, 2)

    def test_a_slurm_without_accounting_is_said_so(self, machine: Machine) -> None:
        machine.answers("squeue", stderr=NOT_KNOWN, code=1)
        machine.answers("sacct", stderr="Slurm accounting storage is disabled\n", code=1)

        look = Slurm().look(["7"])["7"]

        assert look.phase is JobPhase.FORGOTTEN
        assert not look.phase.is_over
        assert "keeps no accounts" in look.reason

    def test_a_machine_without_sacct_is_said_so(self, machine: Machine) -> None:
        machine.answers("squeue", stderr=NOT_KNOWN, code=1)

        assert "sacct is not on this machine" in Slurm().look(["7"])["7"].reason

    def test_a_controller_that_does_not_answer_leaves_jobs_unknown_with_the_reason(self, machine: Machine) -> None:
        said = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
        machine.answers("squeue", stderr=said, code=1)
        machine.answers("sacct")

        look = Slurm().look(["7"])["7"]

        assert look.phase is JobPhase.UNKNOWN
        assert look.reason == f"squeue cannot tell: {said.strip()}"

    def test_no_job_needs_no_command(self, machine: Machine) -> None:
        machine.answers("squeue")

        assert Slurm().look([]) == {}
        assert machine.calls("squeue") == []


class TestSignals:
    @pytest.mark.parametrize("name", ["USR1", "SIGUSR1", "usr1"])
    def test_a_signal_goes_to_the_script_only(self, machine: Machine, name: str) -> None:
        machine.answers("scancel")

        Slurm().signal("42", name)

        assert machine.calls("scancel")[0].words == ["--batch", "--signal=USR1", "42"]

    def test_a_job_that_waits_cannot_get_a_signal(self, machine: Machine) -> None:
        machine.runs("scancel", "/bin/sleep 60")

        with pytest.raises(BackendError, match="the job may not have begun yet: squeue -j 42"):
            Slurm(limit_s=0.2).signal("42", "USR1")

    @pytest.mark.parametrize(
        "said",
        [
            "scancel: error: Kill job error on job id 42: Invalid job id specified",
            "scancel: error: Kill job error on job id 42: Job/step already completing or completed",
        ],
    )
    def test_the_end_of_a_job_that_has_ended_is_no_error(self, machine: Machine, said: str) -> None:
        machine.answers("scancel", stderr=said + "\n", code=1)

        Slurm().cancel("42")

        assert machine.calls("scancel")[0].words == ["42"]

    def test_a_job_of_someone_else_cannot_be_cancelled(self, machine: Machine) -> None:
        said = "scancel: error: Kill job error on job id 42: Access/permission denied\n"
        machine.answers("scancel", stderr=said, code=1)

        with pytest.raises(SpecError, match="job 42 is not yours to cancel"):
            Slurm().cancel("42")


@pytest.mark.parametrize("job_id", ["1; touch x", "-x", "", "1,2", "$(id)", "1\n2"])
@pytest.mark.parametrize("kind", [SchedulerKind.SLURM, SchedulerKind.PBS])
def test_what_is_no_job_id_reaches_no_command(machine: Machine, kind: SchedulerKind, job_id: str) -> None:
    commands = ("squeue", "sacct", "scancel", "qstat", "qdel", "qsig")
    for command in commands:
        machine.answers(command)
    system = batch_system(kind)

    with pytest.raises(SpecError, match="job id="):
        system.look(["1", job_id])
    with pytest.raises(SpecError, match="job id="):
        system.cancel(job_id)
    with pytest.raises(SpecError, match="job id="):
        system.signal(job_id, "USR1")

    assert [machine.calls(command) for command in commands] == [[]] * len(commands)


@pytest.mark.parametrize("kind", [SchedulerKind.SLURM, SchedulerKind.PBS])
def test_what_is_no_signal_reaches_no_command(machine: Machine, kind: SchedulerKind) -> None:
    with pytest.raises(SpecError, match=r"unknown signal 'USR1 2'; valid: .*TERM"):
        batch_system(kind).signal("1", "USR1 2")


def test_commands_that_are_not_on_path_are_named(machine: Machine) -> None:
    machine.answers("squeue")
    systems: list[BatchSystem] = [batch_system(SchedulerKind.SLURM), batch_system(SchedulerKind.PBS)]

    assert [system.name for system in systems] == ["slurm", "pbs"]
    assert [system.missing() for system in systems] == [("sbatch", "scancel"), ("qsub", "qstat", "qdel", "qsig")]


@pytest.mark.parametrize("kind", [SchedulerKind.LOCAL, SchedulerKind.KUBERNETES])
def test_a_kind_without_jobs_is_refused(kind: SchedulerKind) -> None:
    with pytest.raises(SpecError, match=f"{kind} has no jobs"):
        batch_system(kind)


@pytest.mark.parametrize(
    ("environ", "held"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "42"}, (SchedulerKind.SLURM, "42")),
        ({"PBS_JOBID": "42.head"}, (SchedulerKind.PBS, "42.head")),
    ],
)
def test_the_job_that_a_process_is_in_stands_in_its_environment(
    environ: dict[str, str], held: tuple[SchedulerKind, str] | None
) -> None:
    assert held_job(environ) == held


def test_a_variable_that_holds_no_job_id_is_named() -> None:
    with pytest.raises(SpecError, match="SLURM_JOB_ID='x y'"):
        held_job({"SLURM_JOB_ID": "x y"})
