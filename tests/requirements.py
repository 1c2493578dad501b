"""Marks for tests that need more than the Python environment: a program, an optional module.

    @needs_command("mpiexec", package="openmpi-bin")
    async def test_...

Where it is missing the test is skipped, and the reason says what to install. With `CI=true` in the
environment it fails instead, so that nothing goes unchecked in a gate.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


def needs_command(command: str, *, package: str) -> pytest.MarkDecorator:
    """Return a mark: the test needs `command` on PATH, which the system package brings."""
    return pytest.mark.needs_command(command, package=package)


def needs_module(module: str, *, install: str) -> pytest.MarkDecorator:
    """Return a mark: the test needs a Python module, which `pip install <install>` brings."""
    return pytest.mark.needs_module(module, install=install)


def missing(item: pytest.Item) -> Iterator[str]:
    """Yield what to install for this test, one text per mark that is not satisfied."""
    for mark in item.iter_markers("needs_command"):
        if shutil.which(mark.args[0]) is None:
            yield f"install {mark.kwargs['package']} (no {mark.args[0]} on PATH)"
    for mark in item.iter_markers("needs_module"):
        if importlib.util.find_spec(mark.args[0]) is None:
            yield f"pip install '{mark.kwargs['install']}' (no module {mark.args[0]})"


def skip_or_fail(item: pytest.Item) -> None:
    """End the test here if something it needs is missing."""
    reason = "; ".join(missing(item))
    if not reason:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}; with CI=true nothing is skipped", pytrace=False)
    pytest.skip(reason)
