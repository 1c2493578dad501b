"""The image, built once by `rhapsody image build`, and the file of Apptainer that is made from it.

`$RHAPSODY_TEST_BASE` names the base image; unless it is set, one is made from Debian's packages, and kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rhapsody.deploy.image.build import make_sif
from rhapsody.deploy.image.engine import Use, find_engine
from tests.containers.engine import rhapsody_image, run
from tests.requirements import needs_command

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent
CHECKOUT = FOLDER.parents[1]
BASE = "localhost/rhapsody-base:bookworm"
TAG = "localhost/rhapsody:tests"
WORD = "this-must-not-be-in-the-image"
TOOLS = "by scripts/container-tools"
BUILD_LIMIT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests of this folder: they need engines, and the first one waits for the build."""
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.containers)
            item.add_marker(pytest.mark.timeout(BUILD_LIMIT_S))
            for command in ("buildah", "podman", "apptainer"):
                item.add_marker(needs_command(command, package=f"{command} ({TOOLS})"))


class Built(NamedTuple):
    """An image that was built.

    Attributes:
        tag: Its name.
        said: What `rhapsody image build` printed.
    """

    tag: str
    said: str


@pytest.fixture(scope="session")
def engines() -> Iterator[None]:
    """Let engines work where root has few rights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(FOLDER / "containers.conf"))
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        patch.setenv("SOURCE_DATE_EPOCH", "1767225600")
        yield


@pytest.fixture(scope="session")
def base(engines: None) -> str:
    """Return the base image."""
    name = os.environ.get("RHAPSODY_TEST_BASE", BASE)
    if name == BASE and run("buildah", "inspect", "--type", "image", name).returncode:
        made = run(str(CHECKOUT / "scripts/base-image"), name)
        assert made.returncode == 0, made.stderr
    return name


@pytest.fixture(scope="session")
def words(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return how `rhapsody image build` is called here."""
    pip_config = tmp_path_factory.mktemp("pip") / "pip.conf"
    pip_config.write_text(f"[global]\n# password: {WORD}\nretries = 3\n")
    called = [
        "build",
        "--source",
        str(CHECKOUT),
        "--base",
        base,
        "--pip-config",
        str(pip_config),
        "--engine",
        "buildah",
    ]
    if certificates := os.environ.get("PIP_CERT"):
        called += ["--ca", certificates]
    return called


@pytest.fixture(scope="session")
def built(words: list[str]) -> Iterator[Built]:
    """Build the image, and remove it at the end."""
    code, said = rhapsody_image(*words, "--tag", TAG, "--", "--network", "host")
    assert code == 0, said

    yield Built(TAG, said)

    run("buildah", "rmi", "--force", TAG)


@pytest.fixture(scope="session")
def image(built: Built) -> str:
    """Return the name of the image."""
    return built.tag


@pytest.fixture(scope="session")
def sif(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of Apptainer; $RHAPSODY_TEST_SIF names one that was made before."""
    if made := os.environ.get("RHAPSODY_TEST_SIF"):
        return Path(made)
    image: str = request.getfixturevalue("image")
    file = tmp_path_factory.mktemp("sif") / "rhapsody.sif"
    make_sif(find_engine(Use.BUILD, "buildah"), image, file, CHECKOUT, lambda _line: None)
    return file
