"""What the batch system's commands answer, and what `rhapsody doctor` makes of it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.doctor.batch import batch
from rhapsody.deploy.doctor.examination import Health
from tests.unit.deploy.machines import PBS, SLURM, Machine, by_name
from tests.unit.deploy.texts import ABOUT

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.doctor.examination import Finding

QUEUES = f"""\
queues:
  {ABOUT}
  open: false
  entries:
    - {{name: batch, partition: batch, max_nodes: 4, max_walltime: 1h}}
    - {{name: debug, partition: batch, qos: debug}}
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.commands))
    return machine


def with_slurm(machine: Machine, partitions: str = "batch|up\nwide|up\nold|down\n") -> None:
    for command in ("sbatch", "squeue", "scancel", "srun"):
        machine.says(command)
    machine.says("sinfo", partitions)


def with_pbs(machine: Machine, **queues: dict[str, str]) -> None:
    for command in ("qsub", "qdel", "qsig"):
        machine.says(command)
    machine.says("qstat", json.dumps({"Queue": queues}))


def found(machine: Machine, text: str = SLURM, **more: object) -> dict[str, Finding]:
    return by_name(list(batch(machine.profile(text), machine.patient(**more))))


def test_a_machine_without_slurm_is_asked_nothing(machine: Machine) -> None:
    machine.says("sbatch")

    findings = found(machine, account="abc")

    assert list(findings) == ["commands"]
    assert findings["commands"].verdict is Health.WRONG
    assert findings["commands"].text == "Slurm: squeue, scancel, srun, sinfo not on PATH"


def test_a_slurm_that_does_not_answer_is_asked_nothing_more(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sinfo", stderr="slurm_load_partitions: Unable to contact slurm controller", exit_code=1)
    machine.says("sacctmgr", "abc||\n")

    findings = found(machine, account="abc")

    assert list(findings) == ["commands", "Slurm"]
    assert findings["Slurm"].verdict is Health.WRONG
    assert "Unable to contact slurm controller" in findings["Slurm"].text
    assert machine.asked("sacctmgr") == []


def test_a_slurm_that_has_the_queues_of_the_profile_is_well(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "debug|00:30:00|node=8||1|5\n")

    findings = found(machine, SLURM + QUEUES)

    assert {finding.verdict for finding in findings.values()} == {Health.OK}
    assert findings["queues"].text == "this machine has those of the profile here"


def test_a_queue_that_the_machine_lacks_makes_the_profile_old(machine: Machine) -> None:
    with_slurm(machine, "wide|up\n")
    machine.says("sacctmgr", "debug|||||\n")

    queues = found(machine, SLURM + QUEUES)["queues"]

    assert queues.verdict is Health.WARNING
    assert "has batch, which this machine lacks" in queues.text
    assert queues.fix.endswith("here are: wide")


@pytest.mark.parametrize(
    ("queue", "verdict", "words"),
    [
        ("batch", Health.OK, "batch takes jobs"),
        ("wide", Health.WRONG, "does not know it"),
        ("none", Health.WRONG, "this machine has no queue none"),
    ],
)
def test_a_queue_that_is_wanted_must_be_known_to_machine_and_profile(
    machine: Machine, queue: str, verdict: Health, words: str
) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "debug|||||\n")

    finding = found(machine, SLURM + QUEUES, queue=queue)["queue"]

    assert finding.verdict is verdict
    assert words in finding.text


def test_a_queue_that_is_closed_now_is_told(machine: Machine) -> None:
    with_slurm(machine)

    finding = found(machine, queue="old")["queue"]

    assert finding.verdict is Health.WARNING
    assert finding.text == "old is down now"


def test_limits_of_a_qos_come_from_the_machine_where_the_profile_knows_none(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "normal|||||\ndebug|00:30:00|cpu=512,node=8|node=16|1|5\n")

    finding = found(machine, SLURM + QUEUES)["limits of debug"]

    assert finding.verdict is Health.OK
    assert finding.text == (
        "by Slurm: a job may take 00:30:00, a job may have 512 cpu and 8 node, a user may have 16 node at once,"
        " jobs of a user that run at once: 1, jobs of a user in the queue: 5"
    )


@pytest.mark.parametrize(("queue", "verdict"), [(None, Health.WARNING), ("debug", Health.WRONG)])
def test_a_qos_that_the_machine_lacks_is_told(machine: Machine, queue: str | None, verdict: Health) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "normal|||||\n")

    findings = found(machine, SLURM + QUEUES, queue=queue)

    assert findings["qos"].verdict is verdict
    assert findings["qos"].text == "the profile here names the QOS debug, which this machine lacks"
    assert findings["qos"].fix.endswith("QOS here: normal")
    assert "limits of debug" not in findings


def test_a_profile_of_qos_alone_is_not_said_to_have_its_queues_here(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "debug|||||\n")
    entries = f"queues:\n  {ABOUT}\n  entries: [{{name: debug, qos: debug}}]\n"

    findings = found(machine, SLURM + entries, queue="debug")

    assert "queues" not in findings
    assert findings["queue"].verdict is Health.OK


def test_limits_cannot_be_told_without_accounting(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", stderr="sacctmgr: error: no accounting", exit_code=1)

    finding = found(machine, SLURM + QUEUES)["limits"]

    assert finding.verdict is Health.CANNOT_TELL
    assert "no accounting" in finding.text


def test_limits_are_not_asked_for_where_the_profile_knows_them(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "debug|||||\n")

    findings = found(machine, SLURM + QUEUES, queue="batch")

    assert not [name for name in findings if name.startswith("limits")]
    assert machine.asked("sacctmgr") == []


def test_a_wrong_account_is_wrong_and_the_users_own_are_named(machine: Machine) -> None:
    with_slurm(machine)
    machine.says("sacctmgr", "xyz||\n")

    account = found(machine, account="abc")["account"]

    assert account.verdict is Health.WRONG
    assert account.text.endswith("your accounts: xyz")


def test_an_account_that_the_site_asks_for_is_missed(machine: Machine) -> None:
    with_slurm(machine)
    directives = f"directives:\n  {ABOUT}\n  required: [account]\n"

    account = found(machine, SLURM + directives)["account"]

    assert account.verdict is Health.CANNOT_TELL
    assert account.fix == "name it with -A"


def test_queues_of_pbs_are_looked_up_and_those_that_are_stopped_are_told(machine: Machine) -> None:
    with_pbs(
        machine, debug={"enabled": "True", "started": "True"}, prod={"enabled": "True", "started": "False"}, off={}
    )
    entries = f"queues:\n  {ABOUT}\n  entries: [{{name: debug}}, {{name: capacity}}]\n"

    findings = found(machine, PBS + entries, queue="debug")

    assert findings["PBS"].text == "answers"
    assert "has capacity, which this machine lacks" in findings["queues"].text
    assert findings["queue"].verdict is Health.OK
    assert found(machine, PBS, queue="prod")["queue"].text == "prod starts no jobs now"
    assert found(machine, PBS, queue="off")["queue"].text == "off takes no jobs now"


def test_a_pbs_that_does_not_speak_json_is_told(machine: Machine) -> None:
    with_pbs(machine)
    machine.says("qstat", "Queue: debug\n")

    assert "did not answer in JSON" in found(machine, PBS)["PBS"].text


def test_a_site_without_batch_system_needs_none(machine: Machine) -> None:
    local = SLURM.replace("kind: slurm", "kind: local").replace("launcher: srun", "launcher: none")

    assert found(machine, local)["batch system"].verdict is Health.OK


def test_a_command_that_hangs_is_given_up(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhapsody.deploy.doctor.finding.LIMIT_S", 0.2)
    with_slurm(machine)
    os.mkfifo(machine.folder / "never")
    (machine.commands / "sinfo").write_text(f"#!/bin/sh\nread line < {machine.folder / 'never'}\n")

    slurm = found(machine)["Slurm"]

    assert slurm.verdict is Health.WRONG
    assert "did not answer within 0.2 s" in slurm.text
