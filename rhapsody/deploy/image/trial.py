"""Trying an image out: the program that it carries for this, run in a container that may do as little as possible."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.image.engine import Use, carry_out, find_apptainer, find_engine, require_reference
from rhapsody.deploy.image.facts import ImageFacts, is_file, look_with, require_own_architecture, sif_architecture
from rhapsody.deploy.image.named import image_for
from rhapsody.deploy.image.smoke import FALSE, WRONG
from rhapsody.errors import BackendError, RhapsodyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.deploy.image.engine import Engine

SHARED_MEMORY = "2g"
_PROGRAM = ("/opt/rhapsody/bin/python", "-I", "-m", "rhapsody.deploy.image.smoke")
_SIZE = re.compile(r"[1-9][0-9]{0,6}[kmg]?", re.IGNORECASE)
_SCRATCH = "/tmp:exec,mode=1777"  # noqa: S108 - the container's; programs are written there and started
_SOMEBODY = "12345:12345"
"""A user that the image does not know."""


def try_out(image: str, wanted: str | None, say: Callable[[str], None], *, shm_size: str, as_json: bool) -> None:
    """Run the image's own trial.

    Args:
        image: Name, or path of a file of Apptainer.
        wanted: Name of the engine; None takes one that is there.
        say: Called with each line.
        shm_size: Shared memory of the container, as `2g`; files of Apptainer use the machine's.
        as_json: Whether the trial shall write JSON.

    Raises:
        SpecError: There is no such image or engine, or it is of another architecture.
        BackendError: The trial failed.
    """
    if _SIZE.fullmatch(shm_size) is None:
        raise SpecError(f"{shm_size!r} is no size of shared memory; give a number with k, m or g, such as 2g")
    name = image_for(image)
    program = [*_PROGRAM, *(["--json"] if as_json else [])]
    if is_file(name):
        _require_runs_here(name)
        _run([find_apptainer().path, "-q", "exec", "--cleanenv", name, *program], name, say)
        return
    engine = find_engine(Use.RUN, wanted)
    require_own_architecture(look_with(engine, require_reference(name)))
    _run(run_command(engine, name, program, shm_size), name, say)


def _run(command: list[str], name: str, say: Callable[[str], None]) -> None:
    failed = False

    def hear(line: str) -> None:
        nonlocal failed
        failed = failed or line.startswith(WRONG) or FALSE in line
        say(line)

    try:
        carry_out(command, hear)
    except RhapsodyError as exc:
        if failed:
            raise BackendError(f"the image {name} did not pass; see above what is wrong, and how to mend it") from exc
        raise


def _require_runs_here(name: str) -> None:
    facts = ImageFacts(name=name, kind="sif", architecture=sif_architecture(Path(name)), size_bytes=0)
    require_own_architecture(facts)


def run_command(engine: Engine, image: str, program: list[str], shm_size: str) -> list[str]:
    """Return the command line that runs a program in a container without rights, and without a root to write to."""
    return [
        *(engine.path, "run", "--rm", "--pull=never", "--read-only", "--tmpfs", _SCRATCH),
        *("--cap-drop", "all", "--security-opt", "no-new-privileges", "--user", _SOMEBODY),
        *("--shm-size", shm_size, image, *program),
    ]
