"""Campaigns deployed on this machine, in containers of podman."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.containers.engine import run

if TYPE_CHECKING:
    import subprocess

RHAPSODY = str(Path(sys.executable).with_name("rhapsody"))
SITES = Path(__file__).with_name("sites")


def deploy_in_podman(
    image: str, runs: Path, campaign: Path, *args: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Run a campaign by `rhapsody deploy` in a container that may do as little as possible, with two cores.

    Args:
        image: Its name.
        runs: Folder of all runs; the working folder as well.
        campaign: Its file.
        args: Of the campaign.
        options: Of the deployment.
    """
    where = ["--site", "podman-test", "--on-login-node", "--image", image, "--runs", str(runs), "--cores", "2"]
    command = [RHAPSODY, "deploy", *where, *options, str(campaign), "--", *args]
    return run(*command, folder=runs, RHAPSODY_SITE_PATH=str(SITES))
