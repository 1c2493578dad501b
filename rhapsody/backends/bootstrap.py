"""How a process of ours starts another one of ours, also where RHAPSODY is on no import path yet."""

from __future__ import annotations

import sys
from pathlib import Path

_COMMAND = (
    "import sys; from importlib import import_module; sys.path.insert(0, sys.argv[2]);"
    " import_module(sys.argv[3]).main(*sys.argv[4:])"
)
_SOURCE_FOLDER = str(Path(__file__).resolve().parents[2])


def command(title: str, module: str, *arguments: str) -> list[str]:
    """Return the command line that calls `main` of a module in a Python of its own.

    Args:
        title: Shown in lists of processes.
        module: Of this package.
        arguments: For `main`.
    """
    return [sys.executable, "-c", _COMMAND, title, _SOURCE_FOLDER, module, *arguments]
