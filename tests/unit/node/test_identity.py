"""Which node this is, as launchers tell it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rhapsody.errors import SpecError
from rhapsody.node.identity import Place, environment_of_commands, find_job, find_place, own_addresses, own_names


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}, (3, 4)),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, (1, 2)),
        ({"PALS_RANKID": "1", "PMI_RANK": "0", "PALS_SIZE": "2"}, (1, 2)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "8", "PMIX_RANK": "0"}, (0, 8)),
    ],
)
def test_launchers_say_which_node_this_is(env: dict[str, str], place: tuple[int, int]) -> None:
    assert find_place(None, None, (), env) == place


def test_what_the_user_says_counts_more_than_launchers() -> None:
    env = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4"}

    assert find_place(0, 2, (), env) == Place(0, 2)
    assert find_place(None, 9, (), env) == Place(3, 9)


def test_names_of_hosts_say_how_many_there_are() -> None:
    assert find_place(None, None, ("a", "b"), {"JOB_COMPLETION_INDEX": "1"}) == Place(1, 2)


@pytest.mark.parametrize(
    ("rank", "nodes", "hosts", "env", "message"),
    [
        (None, 2, (), {}, "which node this is was not said: give --rank"),
        (0, None, (), {}, "how many nodes there are was not said: give --nodes"),
        (2, 2, (), {}, "rank 2 is none of 0 to 1"),
        (0, 3, ("a", "b"), {}, "--hosts has 2 names, but there are 3 nodes"),
        (None, 2, (), {"PMI_RANK": "x"}, "PMI_RANK='x' is no number"),
    ],
)
def test_what_is_missing_or_wrong_is_said(
    rank: int | None, nodes: int | None, hosts: tuple[str, ...], env: dict[str, str], message: str
) -> None:
    with pytest.raises(SpecError, match=re.escape(message)):
        find_place(rank, nodes, hosts, env)


def test_the_name_that_others_know_comes_first_and_short_names_are_known_too() -> None:
    env = {"SLURMD_NODENAME": "frontier00001"}

    assert own_names("", ("n0.site.org", "n1.site.org"), 1, env)[:2] == ("n1.site.org", "frontier00001")
    assert own_names("", ("n0.site.org", "n1.site.org"), 1, env)[-1] != ""
    assert "n1" in own_names("", ("n0.site.org", "n1.site.org"), 1, env)
    assert own_names("alpha", (), 0, {}) == ("alpha",)


@pytest.mark.parametrize(("env", "job"), [({"SLURM_JOB_ID": "7"}, "7"), ({"PBS_JOBID": "8.pbs"}, "8.pbs"), ({}, "")])
def test_the_job_is_known_by_the_batch_system_s_id(env: dict[str, str], job: str) -> None:
    assert find_job(env) == job


def test_the_loopback_is_the_last_address() -> None:
    addresses = own_addresses()

    assert addresses[-1].startswith("127.")
    assert len(set(addresses)) == len(addresses)


def test_commands_do_not_take_the_agent_s_launcher_for_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = {"PMI_RANK": "1", "PMI_FD": "5", "PMIX_RANK": "1", "OMPI_COMM_WORLD_RANK": "1", "SLURM_PROCID": "1"}
    users = {"OMPI_MCA_btl": "self,tcp", "SLURM_JOB_ID": "7", "OMP_NUM_THREADS": "4"}
    for name, value in (theirs | users).items():
        monkeypatch.setenv(name, value)

    env = environment_of_commands([Path("/private/bin")], {})

    assert not {name for name in theirs if name.encode() in env}
    assert {name: env[name.encode()].decode() for name in users} == users


def test_commands_find_the_ssh_first_and_launchers_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_LAUNCHER", "mine")

    env = environment_of_commands([Path("/private/bin"), Path("/run/bin")], {"MARK": "m"})

    assert env[b"PATH"].startswith(b"/private/bin:/run/bin:")
    assert (env[b"OMPI_MCA_plm"], env[b"HYDRA_LAUNCHER"], env[b"MARK"]) == (b"rsh", b"mine", b"m")
