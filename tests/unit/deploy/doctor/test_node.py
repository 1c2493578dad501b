"""This host: what /proc and /sys say of it, and what follows; and where the installation lies."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.doctor.examination import Finding, Health
from rhapsody.deploy.doctor.installation import installation
from rhapsody.deploy.doctor.node import Use, host, login_limits, memory_for_dragon, network, use_of
from tests.unit.deploy.machines import SLURM, Machine, by_name
from tests.unit.deploy.texts import ABOUT, write

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = SLURM.replace("kind: slurm", "kind: local").replace("launcher: srun", "launcher: none")
LOGIN = f"login_node:\n  {ABOUT}\n  max_processes: 10\n  max_memory: 1GB\n"
KNOWN = f'{SLURM}login_node:\n  {ABOUT}\n  host_patterns: ["login*.here.org"]\n'
NETWORK = f"{SLURM}network:\n  {ABOUT}\n  interfaces: [hsn0, hsn1]\n"
IN_JOB = {"SLURM_JOB_ID": "7"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RHAPSODY_SITE_PATH", str(tmp_path / "known"))
    return Machine(tmp_path)


def process(machine: Machine, pid: int, *, uid: int = os.getuid(), threads: int = 1, kilobytes: int = 100) -> None:
    folder = machine.root / "proc" / str(pid)
    folder.mkdir()
    text = f"Name:\tx: y\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t  {kilobytes} kB\nThreads:\t{threads}\n"
    (folder / "status").write_text(text)


def limits(machine: Machine, text: str = SLURM + LOGIN, **more: object) -> dict[str, Finding]:
    return by_name(list(login_limits(machine.profile(text), machine.patient(**more), resource.RLIM_INFINITY)))


def test_processes_of_this_user_are_counted_with_their_threads(machine: Machine) -> None:
    process(machine, 1, threads=3, kilobytes=1000)
    process(machine, 2, threads=2, kilobytes=24)
    process(machine, 3, uid=os.getuid() + 1)
    (machine.root / "proc" / "4").mkdir()  # has just ended
    (machine.root / "proc" / "self").mkdir()

    assert use_of(machine.root / "proc", os.getuid()) == Use(2, 5, 1024 * 1024)


@pytest.mark.parametrize(("threads", "verdict"), [(8, Health.OK), (9, Health.WARNING), (10, Health.WRONG)])
def test_threads_are_measured_by_what_the_site_allows(machine: Machine, threads: int, verdict: Health) -> None:
    process(machine, 1, threads=threads)

    finding = limits(machine)["processes"]

    assert finding.verdict is verdict
    assert finding.text == f"you have 1 processes with {threads} threads on this host; 10 are allowed"


def test_memory_is_measured_by_what_the_site_allows(machine: Machine) -> None:
    process(machine, 1, kilobytes=900_000)

    assert limits(machine)["memory"].verdict is Health.WARNING


def test_limits_of_login_nodes_are_not_those_of_jobs(machine: Machine) -> None:
    process(machine, 1, threads=50)

    findings = limits(machine, environ=IN_JOB)

    assert list(findings) == ["processes"]
    assert findings["processes"].verdict is Health.OK


def test_a_login_node_that_a_profile_knows_is_no_place_for_a_run(machine: Machine) -> None:
    write(machine.folder / "known", "here", KNOWN)
    (finding,) = host(machine.profile(LOCAL), machine.patient())

    assert finding.verdict is Health.WRONG
    assert finding.fix == "submit a job: --site here"


@pytest.mark.parametrize(
    ("name", "environ", "verdict"),
    [
        ("login7.here.org", {}, Health.OK),
        ("laptop", {}, Health.WARNING),
        ("node7", IN_JOB, Health.OK),
    ],
)
def test_jobs_are_submitted_from_login_nodes(
    machine: Machine, name: str, environ: dict[str, str], verdict: Health
) -> None:
    (finding,) = host(machine.profile(KNOWN), machine.patient(host=name, environ=environ))

    assert finding.verdict is verdict


def test_a_login_node_cannot_be_told_where_their_names_are_not_known(machine: Machine) -> None:
    (finding,) = host(machine.profile(SLURM), machine.patient())

    assert finding.verdict is Health.CANNOT_TELL


def test_interfaces_of_the_profile_are_looked_for(machine: Machine) -> None:
    for name in ("hsn0", "hsn1", "lo"):
        (machine.root / "sys/class/net" / name).mkdir(parents=True)

    (finding,) = network(machine.profile(NETWORK), machine.patient())

    assert finding.verdict is Health.OK


@pytest.mark.parametrize(("environ", "verdict"), [({}, Health.CANNOT_TELL), (IN_JOB, Health.WRONG)])
def test_a_missing_interface_is_wrong_on_a_node_of_a_job_only(
    machine: Machine, environ: dict[str, str], verdict: Health
) -> None:
    (machine.root / "sys/class/net/hsn0").mkdir(parents=True)

    (finding,) = network(machine.profile(NETWORK), machine.patient(environ=environ))

    assert finding.verdict is verdict
    assert "hsn1" in finding.text
    assert list(network(machine.profile(SLURM), machine.patient())) == []


@pytest.mark.parametrize(
    ("free", "verdict"), [(1 << 29, Health.WRONG), (1 << 31, Health.WARNING), (5_000 * 10**6, Health.OK)]
)
def test_dragon_needs_shared_memory(free: int, verdict: Health) -> None:
    assert memory_for_dragon(free).verdict is verdict


def test_an_installation_in_memory_of_this_node_is_wrong_for_jobs_without_image(machine: Machine) -> None:
    (machine.root / "proc/mounts").write_text("none / tmpfs rw 0 0\n")

    without = by_name(list(installation(machine.profile(), machine.patient())))
    with_image = by_name(list(installation(machine.profile(), machine.patient(image="x.sif"))))

    assert without["python"].verdict is without["rhapsody"].verdict is Health.WRONG
    assert with_image["python"].verdict is with_image["rhapsody"].verdict is Health.OK


def test_an_installation_that_all_nodes_see_is_well(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine.root / "proc/mounts").write_text("server:/home / nfs4 rw 0 0\n")

    found = by_name(list(installation(machine.profile(), machine.patient())))

    assert found["python"].verdict is found["rhapsody"].verdict is Health.OK


@pytest.mark.parametrize(
    ("text", "image", "verdict"),
    [(SLURM, None, Health.WARNING), (SLURM, "x.sif", Health.CANNOT_TELL), (LOCAL, None, Health.OK)],
)
def test_a_missing_dragon_matters_on_several_nodes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, text: str, image: str | None, verdict: Health
) -> None:
    monkeypatch.setattr("rhapsody.deploy.doctor.installation.is_installed", lambda: False)

    found = by_name(list(installation(machine.profile(text), machine.patient(image=image))))

    assert found["dragon"].verdict is verdict
