"""What the tests of the command share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.command import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Write = Callable[..., Path]


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Command]:
    """Return what starts the command in a fresh folder; kills what a failed test left."""
    command = Command(tmp_path)
    yield command
    for running in command.started:
        if running.process.poll() is None:
            running.process.kill()
        running.process.wait()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Return a function that writes a campaign file and returns its path."""

    def write(text: str, name: str = "study.py") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write
