"""The command line of the job's `ssh`, as launchers write it."""

from __future__ import annotations

import pytest

from rhapsody.node import machine
from rhapsody.node.messages import Host, render_hosts
from rhapsody.node.shell import Refusal, find_host, parse

HOSTS = [
    Host(0, "login1", ("login1", "login1.site.org"), "", 7000, machine.look()),
    Host(1, "node1", ("node1", "node1.site.org"), "10.0.0.1", 7001, machine.look()),
    Host(2, "node2", ("node2",), "10.0.0.2", 7002, machine.look()),
]

# Source: Open MPI 4.1 and 5.0 (plm_rsh_module.c, plm_ssh_module.c), MPICH 4 (hydra/lib/tools/bootstrap/external),
# DeepSpeed (launcher/multinode_runner.py), dragonhpc 0.15 (launcher/wlm/ssh.py); checked 2026-11.
LAUNCHERS = {
    "Open MPI": (["-x", "node1", "orted", "-mca", "ess", '"env"'], ("node1", 'orted -mca ess "env"')),
    "Hydra": (
        ["-x", "node1", '"/usr/bin/hydra_pmi_proxy"', "--rmk", "user"],
        ("node1", '"/usr/bin/hydra_pmi_proxy" --rmk user'),
    ),
    "Dragon": (
        ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "node1", "cd", "/x", "&&", "dragon-backend"],
        ("node1", "cd /x && dragon-backend"),
    ),
    "a value as a word of its own": (["-p", "22", "-l", "me", "-i", "/key", "node1", "true"], ("node1", "true")),
    "options behind the host": (["node1", "-n", "-T", "true", "-n"], ("node1", "true -n")),
    "letters together": (["-Tnqp22", "me@node1", "true"], ("node1", "true")),
    "the end of options": (["-x", "--", "node1", "-v"], ("node1", "-v")),
    "an address": (["ssh://me@[fe80::1]:22", "true"], ("fe80::1", "true")),
}


@pytest.mark.parametrize(("arguments", "expected"), LAUNCHERS.values(), ids=LAUNCHERS.keys())
def test_what_launchers_write_is_understood(arguments: list[str], expected: tuple[str, str]) -> None:
    order = parse(arguments)

    assert (order.host, " ".join(order.command)) == expected


@pytest.mark.parametrize(
    ("arguments", "reads"), [(["a", "b"], True), (["-n", "a", "b"], False), (["-fx", "a", "b"], False)]
)
def test_input_is_read_unless_told_otherwise(arguments: list[str], reads: bool) -> None:  # noqa: FBT001
    assert parse(arguments).reads_input is reads


def test_the_working_directory_is_an_option_of_our_own() -> None:
    order = parse(["-o", "RhapsodyDirectory=/scratch/x", "a", "b"])

    assert order.directory == "/scratch/x"


@pytest.mark.parametrize(("arguments", "message"), [([], "no host"), (["-x"], "no host"), (["a"], "no command for a")])
def test_a_command_line_that_is_not_whole_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        parse(arguments)


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("node1", ("10.0.0.1", 7001)),
        ("NODE1.site.org", ("10.0.0.1", 7001)),
        ("10.0.0.2", ("127.0.0.1", 7002)),
        ("1", ("10.0.0.1", 7001)),
        ("0", ("10.0.0.9", 7000)),
        ("login1", ("10.0.0.9", 7000)),
        ("localhost", ("127.0.0.1", 7002)),
        ("node2", ("127.0.0.1", 7002)),
    ],
)
def test_a_host_is_found_by_name_address_and_rank(host: str, found: tuple[str, int]) -> None:
    table = render_hosts(HOSTS, own_rank=2, leader="10.0.0.9")

    assert find_host(table, host) == found


@pytest.mark.parametrize("host", ["node", "node11", "3", "site.org", "", "7001"])
def test_a_host_that_is_none_of_the_job_s_is_refused_with_those_that_are(host: str) -> None:
    table = render_hosts(HOSTS, own_rank=2, leader="10.0.0.9")

    with pytest.raises(Refusal, match="its nodes are login1, node1, node2"):
        find_host(table, host)


def test_of_many_nodes_the_first_are_named() -> None:
    many = [Host(rank, f"n{rank}", (), "10.0.0.1", 1, machine.look()) for rank in range(20)]

    with pytest.raises(Refusal, match=r"its nodes are n0, n1, .*n7 and 12 more"):
        find_host(render_hosts(many, own_rank=0, leader=""), "x")


def test_a_name_given_twice_is_the_lower_rank_s_and_names_come_before_ranks() -> None:
    hosts = [
        Host(0, "a", (), "10.0.0.1", 1, machine.look()),
        Host(1, "a", (), "10.0.0.2", 2, machine.look()),
        Host(2, "1", (), "10.0.0.3", 3, machine.look()),
    ]
    table = render_hosts(hosts, own_rank=0, leader="")

    assert (find_host(table, "a"), find_host(table, "1")) == (("127.0.0.1", 1), ("10.0.0.3", 3))
