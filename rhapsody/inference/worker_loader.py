"""Where an AI worker gets its model from: a function in a module, or one that was written to a file."""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_HEAD = b"rhapsody loader, Python "
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Read by torch, numpy and what they rest on, when they are imported."""


def write_loader(file: Path, loader: Callable[[], object]) -> None:
    """Write a loader to a file that only its owner may read, for `--loader`.

    Functions of modules are written by name, others with their code: so a loader of the latter kind wants the same
    Python there as here.

    Raises:
        SpecError: It cannot be pickled.
    """
    import cloudpickle  # noqa: PLC0415 - a worker that finds its loader in a module needs none

    try:
        pickled = cloudpickle.dumps(loader)
    except Exception as exc:  # whatever the loader holds may raise
        raise SpecError(f"the loader {loader!r} cannot be pickled: {exc}; name it as MODULE:FUNCTION") from exc
    write_whole(file, _HEAD + _python() + b"\n" + pickled)


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
    head, _, pickled = content.partition(b"\n")
    if not head.startswith(_HEAD):
        raise SpecError(f"{where} holds no loader; write it with rhapsody.inference.worker_loader.write_loader")
    made_by = head.removeprefix(_HEAD)
    if made_by != _python():
        raise SpecError(
            f"the loader in {where} was written by Python {made_by.decode(errors='replace')}, and this is "
            f"{_python().decode()}; use the same, or name the loader as MODULE:FUNCTION"
        )
    try:
        return pickle.loads(pickled)  # noqa: S301 - from a file of our own, seen above
    except Exception as exc:  # what is unpickled imports the user's modules
        raise SpecError(f"the loader in {where} cannot be read: {type(exc).__name__}: {exc}") from exc


def _python() -> bytes:
    return f"{sys.version_info.major}.{sys.version_info.minor}".encode()
