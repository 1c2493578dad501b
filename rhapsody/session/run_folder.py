"""The run folder: what a run leaves behind."""

from __future__ import annotations

import json
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import Any

from rhapsody.errors import SpecError
from rhapsody.node.files import write_whole

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
SUBFOLDERS = ("logs", "results", "deploy")  # the journal makes its own


def create_run_folder(name: str, runs: Path | str | None = None) -> Path:
    """Make a new run folder and return it; `name_run_folder` says where.

    Raises:
        SpecError: It cannot be made; the text names the folder.
    """
    return make_run_folder(name_run_folder(name, runs))


def name_run_folder(name: str, runs: Path | str | None = None) -> Path:
    """Return `<runs>/<name>-<time>-<4 hex>`, which is not there yet.

    Args:
        name: Of the run; characters that do not belong into a file name become `-`.
        runs: Folder of all runs; `$RHAPSODY_RUNS`, else `./runs`, when None.
    """
    parent = Path(runs or os.environ.get("RHAPSODY_RUNS") or "runs").expanduser().absolute()
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")
    safe = _UNSAFE.sub("-", name).strip("-.")[:60] or "run"
    return parent / f"{safe}-{stamp}-{secrets.token_hex(2)}"


def make_run_folder(folder: Path) -> Path:
    """Make a run folder with its subfolders, readable by nobody else, and return it.

    Raises:
        SpecError: It cannot be made; the text names the folder.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
        for subfolder in SUBFOLDERS:
            (folder / subfolder).mkdir(mode=0o700)
    except OSError as exc:
        raise SpecError(
            f"the run folder {folder} cannot be made: {exc.strerror}; choose another place with --runs or RHAPSODY_RUNS"
        ) from exc
    return folder


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write `run.json`, whole or not at all."""
    write_whole(folder / "run.json", f"{json.dumps(description, indent=2)}\n".encode())
