"""Where an AI worker gets its model from: a function in a module, or one that was written to a file."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.loader_file import parse_loader, render_loader
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by torch, numpy and what they rest on, when they are imported."""


def write_loader(file: Path, loader: Callable[[], object]) -> None:
    """Write a loader to a file that only its owner may read, for `--loader`; see `render_loader`.

    Raises:
        SpecError: It cannot be pickled.
    """
    write_whole(file, render_loader(loader))


def load_model(where: str, options: Mapping[str, Any]) -> object:
    """Return what the loader returns that is in a file, or is named as `module:function`.

    Args:
        where: The one or the other; a name with a slash is a file.
        options: Given to the loader by name.

    Raises:
        SpecError: There is no such loader.
        Exception: Whatever it raises.
    """
    found = _in_file(where) if "/" in where else _in_module(where)
    if not callable(found):
        raise SpecError(f"--loader {where} is {type(found).__name__}, which cannot be called; name a function")
    return found(**options)


def bind_threads() -> None:
    """Have libraries that are imported from now on use as many threads as this process has cores."""
    for name in _THREADS:
        os.environ.setdefault(name, str(len(os.sched_getaffinity(0))))


def _in_module(where: str) -> Any:  # noqa: ANN401 - checked by the caller
    module, colon, name = where.partition(":")
    if not (module and colon and name):
        raise SpecError(f"--loader {where} is neither MODULE:FUNCTION nor a file; a file's name holds a slash")
    try:
        found = import_module(module)
    except ImportError as exc:
        raise SpecError(f"--loader {where}: {exc}; look at PYTHONPATH, and at what {sys.executable} has") from exc
    for part in name.split("."):
        if not hasattr(found, part):
            raise SpecError(f"--loader {where}: {module} has no {name}")
        found = getattr(found, part)
    return found


def _in_file(where: str) -> Any:  # noqa: ANN401 - checked by the caller
    try:
        with open(where, "rb") as file:  # noqa: PTH123 - a name from the command line
            owner = os.fstat(file.fileno())
            content = file.read()
    except OSError as exc:
        raise SpecError(f"cannot read the loader in {where}: {exc.strerror}") from exc
    if owner.st_uid != os.geteuid() or owner.st_mode & 0o077:
        raise SpecError(f"{where} would be run as code, so nobody else may own, read or write it; chmod 600")
    return parse_loader(content, where)
