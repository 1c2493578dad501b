"""Which engine is taken, how its complaints are told, and what may be called an image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.image.engine import Use, ask, carry_out, find_apptainer, find_engine, require_reference
from rhapsody.deploy.image.faults import fault
from rhapsody.errors import BackendError, RhapsodyError, SpecError
from tests.unit.deploy.image_engines import Engines

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Engines(folder)


def test_engine_is_refused_with_what_to_install_when_there_is_none(engines: Engines) -> None:
    with pytest.raises(SpecError, match=r"looked for buildah, podman, docker.*apt-get install podman"):
        find_engine(Use.BUILD)


def test_engine_is_the_first_that_is_there(engines: Engines) -> None:
    engines.add("podman")
    engines.add("buildah")

    assert find_engine(Use.BUILD).name == "buildah"
    assert find_engine(Use.RUN).name == "podman"


def test_engine_is_not_docker_when_its_service_does_not_answer(engines: Engines) -> None:
    engines.add("docker", err="Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", code=1)

    with pytest.raises(BackendError, match=r"its service does not answer.*systemctl start docker"):
        find_engine(Use.RUN, "docker")
    with pytest.raises(SpecError, match=r"looked for podman, docker; docker is there, but"):
        find_engine(Use.RUN)


def test_engine_that_is_wanted_must_be_able_to(engines: Engines) -> None:
    engines.add("buildah")

    with pytest.raises(SpecError, match="valid: docker, podman"):
        find_engine(Use.RUN, "buildah")
    with pytest.raises(SpecError, match="podman is not on PATH"):
        find_engine(Use.RUN, "podman")


def test_apptainer_may_be_called_singularity(engines: Engines) -> None:
    with pytest.raises(SpecError, match="no apptainer on PATH"):
        find_apptainer()
    engines.add("singularity")

    assert find_apptainer().path == str(engines.folder / "singularity")


@pytest.mark.parametrize("name", ["--privileged", "", "a b", "a;b", "a\nb", "a" * 300])
def test_name_of_an_image_is_refused_when_it_could_be_something_else(name: str) -> None:
    with pytest.raises(SpecError, match="no name of an image"):
        require_reference(name)


def test_name_of_an_image_may_have_registry_tag_and_digest() -> None:
    name = "registry.example.org:5000/a/b_c:1.0@sha256:" + "0" * 64

    assert require_reference(name) == name


OTHER_PYTHON = "rhapsody-image: base-python: the base image x has Python 3.13.1, not Python 3.11"
COMPLAINTS = [
    (
        "ApplyLayer stdout:  stderr: write /x: no space left on device",
        BackendError,
        "disk is full",
        "podman image prune",
    ),
    (
        "Error: initializing source docker://x: (HTTP code 404) manifest unknown: manifest unknown",
        SpecError,
        "not there",
        "rhapsody image build",
    ),
    (
        'initializing source docker://localhost/x: Get "https://localhost/v2/": dial tcp: connect: connection refused',
        SpecError,
        "not there",
        "podman images",
    ),
    ("Error: localhost/x: image not known", SpecError, "not there", "podman images"),
    ("exec /usr/bin/catatonit: exec format error", SpecError, "another architecture", "build it on a machine"),
    (
        'creating build container: choosing image: no image found in manifest list for architecture arm64, OS "linux"',
        SpecError,
        "another architecture",
        "build it on a machine",
    ),
    (
        f"STEP 3: RUN false || echo '{OTHER_PYTHON}'\n{OTHER_PYTHON}\nsubprocess exited with 1",
        SpecError,
        "x has Python 3.13.1, not Python 3.11",
        "--base",
    ),
    ('pinging registry: Get "https://r/v2/": dial tcp: lookup r: no such host', BackendError, "internet", "base-image"),
    ('Get "https://r/v2/": x509: certificate signed by unknown authority', SpecError, "certificate", "--ca"),
    ("writing blob: unauthorized: access to the requested resource", SpecError, "let you in", "podman login"),
    ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM", SpecError, "locks/image.txt", "make lock"),
    (
        'exec: "/opt/rhapsody/bin/python": stat /opt/rhapsody/bin/python: no such file',
        SpecError,
        "no RHAPSODY",
        "build",
    ),
    ("potentially insufficient UIDs or GIDs available: Check /etc/subuid", SpecError, "subordinate", "usermod"),
]


@pytest.mark.parametrize(("said", "kind", "what", "fix"), COMPLAINTS)
def test_complaint_is_told_with_what_it_means_and_what_to_do(
    said: str, kind: type[RhapsodyError], what: str, fix: str
) -> None:
    error = fault(["/usr/bin/podman", "build"], said, 125)

    assert type(error) is kind
    assert what in str(error)
    assert fix in str(error)
    assert any(str(error).endswith(f"`podman build` said:\n  {line}") for line in said.splitlines())


def test_complaint_that_nobody_knows_is_quoted() -> None:
    error = fault(["/usr/bin/podman", "run"], "Error: the moon is full", 125)

    assert str(error) == "`podman run` failed with exit code 125; it said:\n  Error: the moon is full"


def test_command_is_given_up_when_it_does_not_answer(tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    hanging.chmod(0o755)

    with pytest.raises(BackendError, match=r"did not answer within 0\.2 s"):
        ask([str(hanging)], limit_s=0.2)


def test_lines_of_a_command_are_handed_on_when_it_fails(engines: Engines) -> None:
    engines.add("podman", out="one\ntwo", err="three", code=3)
    heard: list[str] = []

    with pytest.raises(BackendError, match="exit code 3"):
        carry_out([str(engines.folder / "podman"), "build"], heard.append)

    assert heard == ["one", "two", "three"]


def test_command_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cannot be started: No such file"):
        carry_out([str(tmp_path / "none")], print)


def test_command_is_ended_when_its_listener_fails(tmp_path: Path) -> None:
    ended, script = tmp_path / "ended", tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntrap 'touch {ended}; exit' TERM\necho begun\nwhile :; do sleep 0.05; done\n")
    script.chmod(0o755)

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out([str(script)], interrupt)

    assert ended.exists()
