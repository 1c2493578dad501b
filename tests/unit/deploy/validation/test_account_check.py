"""Whether an account is a user's own: what Slurm's commands answer, and what follows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.validation.account_check import check_account, user_name
from rhapsody.deploy.validation.accounts import Verdict
from tests.unit.deploy.machines import PBS, SLURM, Machine
from tests.unit.deploy.texts import ABOUT

if TYPE_CHECKING:
    from pathlib import Path

QUEUES = f"""\
queues:
  {ABOUT}
  entries:
    - {{name: batch, partition: batch}}
    - {{name: debug, partition: batch, qos: debug}}
"""
DISABLED = "sacctmgr: error: You are not running a supported accounting_storage plugin\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.commands))
    return machine


def test_an_account_that_slurm_lists_is_ok_whatever_its_case(machine: Machine) -> None:
    machine.says("sacctmgr", "abc123||normal\nxyz||normal,debug\n")

    answer = check_account(machine.profile(), "ABC123")

    assert answer == (Verdict.OK, "Slurm knows abc123 as an account of yours")
    assert machine.asked("sacctmgr") == [f"-nP show assoc user={user_name()} format=Account,Partition,QOS"]


def test_an_account_that_is_not_among_those_listed_is_wrong(machine: Machine) -> None:
    machine.says("sacctmgr", "xyz||normal\nabc123||normal\nabc123|gpu|normal\n")

    verdict, text = check_account(machine.profile(), "abc12")

    assert verdict is Verdict.WRONG
    assert text == "the account abc12 is not among yours on this machine; your accounts: abc123, xyz"


def test_the_list_of_a_user_with_many_accounts_has_an_end(machine: Machine) -> None:
    machine.says("sacctmgr", "".join(f"a{number:02}||\n" for number in range(30)))

    assert check_account(machine.profile(), "b").text.endswith("a10, a11 and 18 more")


def test_sshare_is_asked_where_sacctmgr_lists_nothing(machine: Machine) -> None:
    machine.says("sacctmgr", "")
    machine.says("sshare", "  abc123\n")

    assert check_account(machine.profile(), "abc123").verdict is Verdict.OK
    assert check_account(machine.profile(), "other").verdict is Verdict.WRONG
    assert machine.asked("sshare") == ["-nPU -o Account"] * 2


def test_nobody_can_tell_where_slurm_lists_no_accounts(machine: Machine) -> None:
    machine.says("sacctmgr", "\n")
    machine.says("sshare", "")

    verdict, text = check_account(machine.profile(), "abc123")

    assert verdict is Verdict.CANNOT_TELL
    assert "Slurm lists none of yours" in text


def test_nobody_can_tell_without_accounting(machine: Machine) -> None:
    machine.says("sacctmgr", stderr=DISABLED, exit_code=1)
    machine.says("sshare", stderr="sshare: error: no\n", exit_code=1)

    verdict, text = check_account(machine.profile(), "abc123")

    assert verdict is Verdict.CANNOT_TELL
    assert "You are not running a supported accounting_storage plugin" in text


@pytest.mark.parametrize("account", ["abc123", "-A", "a;b"])
def test_nobody_can_tell_on_a_machine_without_the_commands(machine: Machine, account: str) -> None:
    verdict, text = check_account(machine.profile(), account)

    assert verdict is Verdict.CANNOT_TELL
    assert account in text
    assert "sacctmgr" in text


def test_an_account_for_other_partitions_is_not_refused_but_told(machine: Machine) -> None:
    machine.says("sacctmgr", "abc|gpu|normal\nabc|wide|normal\n")

    verdict, text = check_account(machine.profile(SLURM + QUEUES), "abc", "batch")

    assert verdict is Verdict.CANNOT_TELL
    assert text == "Slurm lists abc for the partitions gpu, wide only, not for batch"


def test_an_account_without_the_qos_of_a_queue_is_not_refused_but_told(machine: Machine) -> None:
    machine.says("sacctmgr", "abc||normal\n")
    profile = machine.profile(SLURM + QUEUES)

    verdict, text = check_account(profile, "abc", "debug")

    assert verdict is Verdict.CANNOT_TELL
    assert text == "Slurm lists abc for the QOS normal only, not for debug"
    assert check_account(profile, "abc", "batch").verdict is Verdict.OK


def test_one_association_for_all_partitions_is_enough(machine: Machine) -> None:
    machine.says("sacctmgr", "abc|gpu|normal\nabc||normal\n")

    assert check_account(machine.profile(SLURM + QUEUES), "abc", "batch").verdict is Verdict.OK


def test_pbs_cannot_tell_and_the_sites_own_command_is_named(machine: Machine) -> None:
    accounts = f"accounts:\n  {ABOUT}\n  balance_command: sbank\n"

    verdict, text = check_account(machine.profile(PBS + accounts), "abc")

    assert verdict is Verdict.CANNOT_TELL
    assert "`sbank` may list them" in text
