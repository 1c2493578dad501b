"""The folder of runs, on file systems that /proc/mounts names."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.doctor.examination import Finding, Health
from rhapsody.deploy.doctor.files import file_system, files, inodes, purge, quota, space
from rhapsody.deploy.doctor.mounts import Reach, mount_of, place_of
from tests.unit.deploy.machines import SLURM, Machine, by_name
from tests.unit.deploy.texts import ABOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

OVER = "     /lustre    1100*  500 1000  6d20h  10  0  0  -\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.commands))
    return machine


def scratch(path: str, more: str = "") -> str:
    return SLURM + f"paths:\n  {ABOUT}\n  scratch: {path}\n  purge_after: 90d\n{more}"


def one(found: Iterator[Finding]) -> Finding:
    (finding,) = found
    return finding


def test_a_folder_that_is_not_there_can_be_made(machine: Machine) -> None:
    machine.mounts()

    found = by_name(list(files(machine.profile(), machine.patient())))

    assert found["run folder"].text == f"{machine.runs} can be made in {machine.folder}"
    assert {"space", "files"} <= set(found)


@pytest.mark.parametrize("runs", [Path("/proc/self/runs"), Path("/proc/version/runs")])
def test_a_folder_that_cannot_be_written_is_wrong(machine: Machine, runs: Path) -> None:
    found = by_name(list(files(machine.profile(), machine.patient(runs=runs))))

    assert found["run folder"].verdict is Health.WRONG
    assert "RHAPSODY_RUNS" in found["run folder"].fix


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("tmpfs", Health.WRONG),
        ("lustre", Health.OK),
        ("nfs4", Health.OK),
        ("fuse.sshfs", Health.OK),
        ("somefs", Health.CANNOT_TELL),
    ],
)
def test_jobs_must_see_the_folder_of_runs(
    machine: Machine, kind: str, verdict: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rhapsody.deploy.doctor.mounts._OF_THE_NODE", ())  # tests lie in /tmp
    machine.mounts(**{kind: machine.folder})

    finding = file_system(machine.profile(), machine.patient())

    assert finding.verdict is verdict
    assert f"{kind} at {machine.folder}" in finding.text


def test_a_folder_in_tmp_is_wrong_for_jobs_and_right_for_this_machine(machine: Machine) -> None:
    machine.mounts()
    patient = machine.patient(runs=Path("/tmp/runs"))  # noqa: S108 - looked at, not used
    local = SLURM.replace("kind: slurm", "kind: local").replace("launcher: srun", "launcher: none")

    assert file_system(machine.profile(), patient).verdict is Health.WRONG
    assert file_system(machine.profile(local), patient).verdict is Health.OK


def test_a_disk_of_this_machine_may_be_exported(machine: Machine) -> None:
    machine.mounts()

    finding = file_system(machine.profile(), machine.patient(runs=Path("/home/ada/runs")))

    assert finding.verdict is Health.WARNING


def test_a_disk_that_the_profile_calls_the_nodes_own_is_wrong(machine: Machine) -> None:
    machine.mounts()
    nodes = f"nodes:\n  {ABOUT}\n  kinds: [{{name: a, local_disk: {{path: /mnt/bb/$USER}}}}]\n"
    patient = machine.patient(runs=Path("/mnt/bb/ada/runs"), environ={"USER": "ada"})

    place = place_of(patient.runs, machine.profile(SLURM + nodes), patient)

    assert place.reach is Reach.THIS_NODE


def test_links_are_followed_to_where_files_lie(machine: Machine) -> None:
    (machine.folder / "memory").mkdir()
    machine.runs.symlink_to(machine.folder / "memory")
    machine.mounts(lustre=machine.folder, tmpfs=machine.folder / "memory")

    assert file_system(machine.profile(), machine.patient()).verdict is Health.WRONG


def test_of_file_systems_the_deepest_and_the_last_one_counts(machine: Machine) -> None:
    lines = ["a / ext4 rw", "b /x nfs rw", "c /x lustre rw", "d /x/with\\040space tmpfs rw", "e /xy xfs rw"]
    (machine.root / "proc/mounts").write_text("\n".join(lines))

    assert mount_of(Path("/x/y"), machine.root) == (Path("/x"), "lustre")
    assert mount_of(Path("/x/with space/y"), machine.root) == (Path("/x/with space"), "tmpfs")
    assert mount_of(Path("/xz"), machine.root) == (Path("/"), "ext4")


@pytest.mark.parametrize(
    ("free", "verdict"), [(99 * 10**6, Health.WRONG), (9 * 10**9, Health.WARNING), (10**10, Health.OK)]
)
def test_a_run_needs_room(free: int, verdict: Health) -> None:
    assert space(Path("/x"), free).verdict is verdict


@pytest.mark.parametrize(("free", "verdict"), [(999, Health.WRONG), (99_999, Health.WARNING), (100_000, Health.OK)])
def test_a_run_needs_files(free: int, verdict: Health) -> None:
    assert inodes(Path("/x"), free).verdict is verdict


def test_quotas_of_lustre_are_asked_for(machine: Machine) -> None:
    machine.mounts(lustre=machine.folder)
    machine.says("lfs", f" {machine.folder}\n   950  500 1000  -  10  0  40  -\n")

    found = by_name(list(quota(machine.folder, machine.patient())))

    assert machine.asked("lfs") == [f"quota -q -u ada {machine.folder}"]
    assert found["quota"].verdict is Health.WARNING
    assert found["quota of files"].verdict is Health.OK
    assert found["quota of files"].text == f"10 of 40 files of your quota on {machine.folder} are used"


def test_a_quota_that_is_used_up_is_wrong_and_no_limit_is_well(machine: Machine) -> None:
    machine.mounts(lustre=machine.folder)
    machine.says("lfs", OVER)

    found = by_name(list(quota(machine.folder, machine.patient())))

    assert found["quota"].verdict is Health.WRONG
    assert found["quota of files"].text == f"you have no limit on {machine.folder}"


@pytest.mark.parametrize("answer", ["", "Some errors happened when getting quota info.\n"])
def test_a_quota_that_is_not_understood_cannot_be_told(machine: Machine, answer: str) -> None:
    machine.mounts(lustre=machine.folder)
    machine.says("lfs", answer)

    assert one(quota(machine.folder, machine.patient())).verdict is Health.CANNOT_TELL


def test_lustre_without_its_command_cannot_tell_a_quota(machine: Machine) -> None:
    machine.mounts(lustre=machine.folder)

    assert one(quota(machine.folder, machine.patient())).verdict is Health.CANNOT_TELL


def test_no_quota_is_asked_for_elsewhere(machine: Machine) -> None:
    machine.mounts(nfs=machine.folder)
    machine.says("lfs", OVER)

    assert list(quota(machine.folder, machine.patient())) == []
    assert machine.asked("lfs") == []


@pytest.mark.parametrize("path", ["/lustre/{account}/scratch/{user}", "$SCRATCH", "${SCRATCH}/", "/lustre/abc/scratch"])
@pytest.mark.parametrize("account", ["abc", None])
def test_files_on_scratch_are_deleted_and_the_oldest_runs_are_named(
    machine: Machine, path: str, account: str | None
) -> None:
    runs, environ = Path("/lustre/abc/scratch/ada/runs"), {"SCRATCH": "/lustre/abc/scratch/ada"}
    before = dt.datetime.now(dt.UTC).astimezone().date() - dt.timedelta(90)

    finding = one(purge(machine.profile(scratch(path)), machine.patient(runs=runs, environ=environ, account=account)))

    assert finding.verdict is Health.WARNING
    assert f"deleted after 90 days without use, the runs of before {before} first" in finding.text


def test_runs_elsewhere_stay(machine: Machine) -> None:
    profile = machine.profile(scratch("/lustre/{account}/scratch/{user}"))

    for runs in ("/lustre/abc/scratch/eve/runs", "/lustre/abc/scratch/ada2", "/home/ada/runs"):
        assert one(purge(profile, machine.patient(runs=Path(runs)))).verdict is Health.OK


def test_a_scratch_whose_variable_is_not_set_cannot_be_told(machine: Machine) -> None:
    finding = one(purge(machine.profile(scratch("$PSCRATCH/x")), machine.patient()))

    assert finding.verdict is Health.CANNOT_TELL
    assert "PSCRATCH is not set" in finding.text


def test_a_link_into_scratch_lies_there(machine: Machine) -> None:
    (machine.folder / "scratch").mkdir()
    machine.runs.symlink_to(machine.folder / "scratch")

    finding = one(purge(machine.profile(scratch(str(machine.folder / "scratch"))), machine.patient()))

    assert finding.verdict is Health.WARNING
