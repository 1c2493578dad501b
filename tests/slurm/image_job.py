"""Jobs whose agents run in containers of Apptainer, at the login node of a real Slurm."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.eventually import eventually
from tests.leftovers import processes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.hosts.started import Started
    from tests.slurm.cluster import Cluster
    from tests.slurm.desk import Desk

FRONT_END = b"from dragon.launcher.launch_selector import main"
TWO = ["node1", "node2"]


def met_in(image: str) -> list[object]:
    """Return what `meets` of the campaign finds in an image of this name on both nodes."""
    return [[[name, image] for name in TWO], TWO]


def in_image(image: Path, *more: str, flags: Sequence[str] = (), binds: Sequence[Path] = ()) -> list[str]:
    """Return the options of a deployment that runs in an image.

    Args:
        image: The file, or an unpacked one.
        more: Further options.
        flags: For Apptainer.
        binds: What it mounts besides.
    """
    engine = {"name": "apptainer", "flags": list(flags), "binds": [str(each) for each in binds]}
    return [
        "--site",
        "slurm-images",
        "--image",
        str(image),
        "--set",
        f"container.engines={json.dumps([engine])}",
        *more,
    ]


def nodes_with(**facts: object) -> list[str]:
    """Return options that change what the profile knows of the nodes."""
    kind = {"name": "cpu", "count": 4, "cores": 4, "memory": "4GB"} | facts
    return ["--set", f"nodes.kinds={json.dumps([kind])}"]


async def ended(command: Started, within_s: float = 90) -> int:
    """Return the exit code of a command, once it has ended."""
    await eventually(lambda: command.code is not None, within_s=within_s, what=f"it ends; it said {command.said}")
    assert command.code is not None
    return command.code


async def says(desk: Desk, text: str, within_s: float = 40) -> None:
    """Return once a job has printed a text."""
    await eventually(lambda: text in desk.printed(), within_s=within_s, what=f"it says {text!r}")


async def nothing_is_left(cluster: Cluster, within_s: float = 30) -> None:
    """Return once nothing of any job runs on any host, or lies in its /dev/shm or temporary folder."""
    left: list[str] = []

    def looks() -> bool:
        left[:] = [*cluster.running(), *cluster.leftovers()]
        return not left

    try:
        await eventually(looks, within_s=within_s, what="nothing is left")
    except AssertionError as exc:
        raise AssertionError(f"{exc}: {left}") from None


def front_end(cluster: Cluster) -> int:
    """Return the process id of Dragon's front end, as seen from here."""
    temporary = str(cluster.hosts.temporary).encode()
    return min(
        pid
        for pid, each in processes().items()
        if FRONT_END in each.command and temporary in each.environ and b"\0-S\0" not in each.command and not each.ended
    )
