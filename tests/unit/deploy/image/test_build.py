"""Command lines that build images, and what is refused before anything is built."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from rhapsody.deploy.image.build import Order, build, build_command, make_sif, require_sif, source_date_epoch
from rhapsody.deploy.image.engine import Engine
from rhapsody.errors import BackendError, SpecError
from tests.unit.deploy.image_engines import Engines

CHECKOUT = Path(__file__).parents[4]
PODMAN = Engine("podman", "/usr/bin/podman")


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    return Engines(folder)


def after(option: str, command: list[str]) -> list[str]:
    """Return what follows an option, for each time that it comes."""
    return [value for word, value in itertools.pairwise(command) if word == option]


def test_build_takes_the_context_and_no_more_than_the_ignore_file_lets_in() -> None:
    command = build_command(PODMAN, Order(CHECKOUT), "123")

    assert command[:2] == ["/usr/bin/podman", "build"]
    assert command[-1] == str(CHECKOUT)
    assert after("--ignorefile", command) == [str(CHECKOUT / "containers/Containerfile.dockerignore")]
    assert after("--timestamp", command) == ["123"]
    assert after("--tag", command) == ["localhost/rhapsody:latest"]


def test_build_says_version_and_commit_but_names_no_base_of_its_own() -> None:
    arguments = dict(word.split("=", 1) for word in after("--build-arg", build_command(PODMAN, Order(CHECKOUT), "1")))

    assert set(arguments) == {"VERSION", "REVISION"}


def test_build_hands_over_secrets_as_files(tmp_path: Path) -> None:
    order = Order(CHECKOUT, ca=tmp_path / "ca.pem", pip_config=tmp_path / "pip.conf")

    command = build_command(PODMAN, order, "1")

    assert after("--secret", command) == [f"id=ca,src={tmp_path}/ca.pem", f"id=pip,src={tmp_path}/pip.conf"]


def test_build_hands_the_users_options_to_the_engine_before_the_context() -> None:
    command = build_command(PODMAN, Order(CHECKOUT, options=("--network", "host")), "1")

    assert command[-3:] == ["--network", "host", str(CHECKOUT)]


def test_build_with_docker_says_the_time_as_buildkit_wants_it() -> None:
    command = build_command(Engine("docker", "/usr/bin/docker"), Order(CHECKOUT), "123")

    assert "SOURCE_DATE_EPOCH=123" in after("--build-arg", command)
    assert "--timestamp" not in command
    assert "--ignorefile" not in command


@pytest.mark.parametrize("variant", ["vllm-cpu", "vllm-cuda", "vllm-rocm"])
def test_build_of_a_variant_takes_rhapsody_from_the_plain_image(variant: str) -> None:
    command = build_command(PODMAN, Order(CHECKOUT, variant=variant, runtime="localhost/mine"), "1")

    assert after("--file", command) == [str(CHECKOUT / "containers/Containerfile.vllm")]
    assert "RUNTIME=localhost/mine" in command
    assert any(word.startswith("BASE=docker.io/") for word in command)


def test_build_of_a_variant_takes_the_base_that_was_given() -> None:
    command = build_command(PODMAN, Order(CHECKOUT, variant="vllm-cuda", base="localhost/vllm"), "1")

    assert [word for word in command if word.startswith("BASE=")] == ["BASE=localhost/vllm"]


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (Order(Path("/nowhere")), r"/nowhere is no checkout of RHAPSODY: pyproject.toml.*--source"),
        (Order(CHECKOUT, tag="--squash"), "no name of an image"),
        (Order(CHECKOUT, base="a b"), "no name of an image"),
        (Order(CHECKOUT, variant="cuda"), "valid: runtime, vllm-cpu, vllm-cuda, vllm-rocm"),
        (Order(CHECKOUT, ca=Path("/no/ca.pem")), r"/no/ca.pem is not there.*--ca"),
    ],
)
def test_build_is_refused_before_an_engine_is_called(engines: Engines, order: Order, words: str) -> None:
    engines.add("buildah")

    with pytest.raises(SpecError, match=words):
        build(order, None, print)

    assert engines.calls == []


def test_build_tells_that_the_disk_is_full(engines: Engines) -> None:
    engines.add("buildah", err="storing layer: write /var/lib/containers/x: no space left on device", code=125)

    with pytest.raises(BackendError, match=r"(?s)the disk is full; remove images.*no space left"):
        build(Order(CHECKOUT), None, print)


def test_build_tells_that_the_base_has_another_python(engines: Engines) -> None:
    said = "rhapsody-image: base-python: the base image debian:13 has Python 3.13.5, not Python 3.11"
    engines.add("buildah", err=said, code=1)

    with pytest.raises(SpecError, match=r"debian:13 has Python 3\.13\.5.*by --base"):
        build(Order(CHECKOUT, base="debian:13"), None, print)


def test_build_returns_the_engine_that_has_the_image(engines: Engines) -> None:
    engines.add("podman")

    engine = build(Order(CHECKOUT), None, print)

    assert engine.name == "podman"
    assert [call[:2] for call in engines.calls] == [["podman", "build"]]


def test_time_of_files_is_the_users_then_the_commits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "17")
    assert source_date_epoch(tmp_path) == "17"

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(SpecError, match="SOURCE_DATE_EPOCH=yesterday is no number"):
        source_date_epoch(tmp_path)

    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert source_date_epoch(tmp_path) == "0"


def test_file_for_apptainer_is_made_from_what_the_engine_saved(engines: Engines, tmp_path: Path) -> None:
    engines.add("podman")
    engines.add("apptainer")

    make_sif(Engine("podman", str(engines.folder / "podman")), "localhost/x", tmp_path / "x.sif", CHECKOUT, print)

    save, made = engines.calls
    archive = save[save.index("--output") + 1]
    assert save[-1] == "localhost/x"
    assert made[:2] == ["apptainer", "build"]
    assert made[-2:] == [str(tmp_path / "x.sif"), str(CHECKOUT / "containers/rhapsody.def")]
    assert f"archive={archive}" in made
    assert not os.path.lexists(archive)


def test_file_for_apptainer_is_not_replaced_unless_told_so(engines: Engines, tmp_path: Path) -> None:
    engines.add("apptainer")
    there = tmp_path / "x.sif"
    there.touch()

    with pytest.raises(SpecError, match="--force"):
        require_sif(there, force=False)
    require_sif(there, force=True)
    with pytest.raises(SpecError, match="is no folder"):
        require_sif(tmp_path / "none" / "x.sif", force=False)
