"""`rhapsody deploy` in podman, with the very options that a site's profile renders: read-only and without rights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.containers.deployed import deploy_in_podman
from tests.containers.engine import CAMPAIGN

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("backend", ["local", "dragon"])
def test_campaign_runs_with_the_options_of_the_profile(image: str, tmp_path: Path, backend: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    campaign = tmp_path / "elsewhere" / "campaign.py"
    campaign.write_text(CAMPAIGN)
    runs = tmp_path / "runs"
    runs.mkdir()

    done = deploy_in_podman(image, runs, campaign, options=("--backend", backend))

    assert done.returncode == 0, done.stdout + done.stderr
    assert "seen 285 [2, 2] 0\n" in done.stdout
    (run_dir,) = runs.iterdir()
    script = (run_dir / "deploy" / "job.sh").read_text()
    for option in ("--shm-size=2g", "--read-only", "--cap-drop=all", "--network=host"):
        assert option in script


def test_image_that_is_not_there_is_said(engines: None, tmp_path: Path) -> None:
    campaign = tmp_path / "campaign.py"
    campaign.write_text(CAMPAIGN)

    done = deploy_in_podman("localhost/rhapsody:not-there", tmp_path, campaign)

    assert done.returncode == 1
    assert "the container did not start; what podman says of it is above" in done.stderr


def test_too_little_shared_memory_is_said(image: str, tmp_path: Path) -> None:
    campaign = tmp_path / "campaign.py"
    campaign.write_text(CAMPAIGN)
    small = "container.engines=[{name: podman, flags: [--network=host, --shm-size=64m]}]"

    done = deploy_in_podman(image, tmp_path, campaign, options=("--backend", "dragon", "--set", small))

    assert done.returncode == 1
    assert "Dragon needs 1024 MiB of shared memory, /dev/shm has 64 MiB free" in done.stderr
