"""Images and container engines: files that are images, are not, or cannot be read, and commands on PATH."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.doctor.examination import Finding, Health
from rhapsody.deploy.doctor.image import container
from tests.unit.deploy.machines import SLURM, Machine, by_name
from tests.unit.deploy.texts import ABOUT

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = SLURM.replace("kind: slurm", "kind: local").replace("launcher: srun", "launcher: none")
CODES = {"i686": b"01", "x86_64": b"02", "aarch64": b"04", "ppc64le": b"06"}
HERE = platform.machine()
OTHER = "aarch64" if HERE != "aarch64" else "x86_64"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    machine = Machine(tmp_path)
    monkeypatch.setenv("PATH", str(machine.commands))
    machine.mounts(lustre=tmp_path)
    monkeypatch.setattr("rhapsody.deploy.doctor.mounts._OF_THE_NODE", ())  # tests lie in /tmp
    return machine


def sif(code: bytes) -> bytes:
    """The head of an image, as `apptainer build` writes it."""
    return b"#!/usr/bin/env run-singularity\n\0" + b"SIF_MAGIC\0" + b"01\0" + code + b"\0" + bytes(2000)


def found(machine: Machine, text: str = SLURM, **more: object) -> dict[str, Finding]:
    return by_name(list(container(machine.profile(text), machine.patient(**more))))


def of_image(machine: Machine, content: bytes, text: str = SLURM) -> Finding:
    (machine.folder / "x.sif").write_bytes(content)
    return found(machine, text, image=str(machine.folder / "x.sif"))["image"]


def test_an_image_for_this_machine_is_well(machine: Machine) -> None:
    finding = of_image(machine, sif(CODES[HERE]))

    assert finding.verdict is Health.OK
    assert finding.text == f"{machine.folder / 'x.sif'}, 2048 bytes, for {HERE}"


@pytest.mark.parametrize(("profile", "verdict"), [(LOCAL, Health.WRONG), (SLURM, Health.WARNING)])
def test_an_image_for_other_machines_is_wrong_where_jobs_run_on_such_as_this(
    machine: Machine, profile: str, verdict: Health
) -> None:
    finding = of_image(machine, sif(CODES[OTHER]), profile)

    assert finding.verdict is verdict
    assert f"made for {OTHER}, and this is {HERE}" in finding.text


@pytest.mark.parametrize("content", [b"", b"hello", b"\x7fELF" + bytes(100), sif(b"02").replace(b"SIF", b"TIF")])
def test_a_file_that_is_no_image_is_wrong(machine: Machine, content: bytes) -> None:
    assert of_image(machine, content).verdict is Health.WRONG


@pytest.mark.parametrize("content", [sif(b"00"), b"hsqs" + bytes(100)])
def test_an_image_that_does_not_say_its_machines_cannot_be_told(machine: Machine, content: bytes) -> None:
    assert of_image(machine, content).verdict is Health.CANNOT_TELL


def test_an_image_that_is_not_there_is_wrong(machine: Machine) -> None:
    finding = found(machine, image="./none.sif")["image"]

    assert finding.verdict is Health.WRONG
    assert finding.text == "none.sif is not there"


def test_an_image_in_memory_of_this_node_is_wrong_for_jobs(machine: Machine) -> None:
    machine.mounts(tmpfs=machine.folder)

    of_image(machine, sif(CODES[HERE]))
    findings = found(machine, image=str(machine.folder / "x.sif"))

    assert findings["image's place"].verdict is Health.WRONG


def test_the_name_of_an_image_cannot_be_told(machine: Machine) -> None:
    assert found(machine, image="docker://registry.example.org/x/y:1")["image"].verdict is Health.CANNOT_TELL


def engines(entry: str) -> str:
    return f"{SLURM}container:\n  {ABOUT}\n  engines:\n    - {entry}\n"


def test_an_engine_says_its_version(machine: Machine) -> None:
    machine.says("apptainer", "apptainer version 1.4.1\n")

    assert found(machine, engines("{name: apptainer}"))["container engine"] == Finding(
        "container engine", Health.OK, "apptainer version 1.4.1"
    )
    assert machine.asked("apptainer") == ["--version"]


@pytest.mark.parametrize(
    ("entry", "verdict", "fix"),
    [
        ("{name: apptainer}", Health.WRONG, "ask the facility how to get apptainer"),
        ("{name: apptainer, modules: [a, b]}", Health.CANNOT_TELL, "module load a b"),
        ("{name: apptainer, compute_nodes_only: true}", Health.CANNOT_TELL, "in a job"),
    ],
)
def test_an_engine_that_is_not_there_may_be_there_in_jobs(
    machine: Machine, entry: str, verdict: Health, fix: str
) -> None:
    finding = found(machine, engines(entry))["container engine"]

    assert finding.verdict is verdict
    assert fix in finding.fix


def test_an_engine_that_fails_is_wrong(machine: Machine) -> None:
    machine.says("apptainer", stderr="error while loading shared libraries", exit_code=127)

    finding = found(machine, engines("{name: apptainer}"))["container engine"]

    assert finding.verdict is Health.WRONG
    assert "error while loading shared libraries" in finding.text


def test_an_engine_is_looked_for_where_the_profile_knows_none_and_an_image_is_wanted(machine: Machine) -> None:
    missing = found(machine, image="docker://x")["container engine"]
    machine.says("podman", "podman version 5.2\n")

    there = found(machine, image="docker://x")["container engine"]

    assert missing.verdict is Health.WRONG
    assert there.text == "podman version 5.2"
    assert found(machine) == {}


def test_an_image_that_must_be_prepared_names_the_command(machine: Machine) -> None:
    entry = '{name: podman-hpc, prepare: ["podman-hpc migrate {image}"]}'

    image = found(machine, engines(entry), image="rhapsody:1")["image"]

    assert image.verdict is Health.CANNOT_TELL
    assert image.fix == "once before the first job: podman-hpc migrate rhapsody:1"
