"""A file system that fails while a session writes its journal: it stops accepting, says so, and goes on."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, JournalError, Session, State
from rhapsody.telemetry.history.past import Past
from rhapsody.telemetry.reader import read_events
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

GOING_ON = "the journal can be written again; going on"
CODES = [errno.ENOSPC, errno.EDQUOT, errno.EIO]


class Trouble:
    """Makes one function of `os` fail for files of one kind, while `code` is set."""

    def __init__(self, patch: pytest.MonkeyPatch, name: str, suffix: str) -> None:
        self.code = 0
        self.failures = 0
        self._suffix = suffix
        self._real: Callable[..., object] = getattr(os, name)
        patch.setattr(os, name, self._perhaps)

    def _perhaps(self, file: int, *arguments: object) -> object:
        if self.code and Path(f"/proc/self/fd/{file}").readlink().suffix == self._suffix:
            self.failures += 1
            raise OSError(self.code, os.strerror(self.code))
        return self._real(file, *arguments)


def square(number: int) -> int:
    """Return the square."""
    return number * number


@pytest.mark.parametrize("code", CODES, ids=lambda code: errno.errorcode[code])
@pytest.mark.parametrize(("name", "suffix"), [("pwrite", ".log"), ("fsync", ".log"), ("pwrite", ".kept")])
async def test_session_stops_accepting_says_so_and_goes_on_when_it_can_write_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, name: str, suffix: str
) -> None:
    said: list[str] = []
    async with Session(cores=1, runs=tmp_path, notify=said.append) as session:
        first = [ComputeTask(square, args=(number,)) for number in range(20)]
        await session.submit(first)
        await session.wait(first)
        trouble = Trouble(monkeypatch, name, suffix)
        trouble.code = code
        second = [ComputeTask(square, args=(number,)) for number in range(20, 40)]
        async with asyncio.TaskGroup() as group:
            group.create_task(session.submit(second))
            await eventually(lambda: any("nothing new starts" in line for line in said))
            with pytest.raises(JournalError, match="while the journal cannot be written"):
                await session.submit(ComputeTask(square, args=(99,)))
            before = trouble.failures
            await eventually(lambda: trouble.failures > before)
            trouble.code = 0
            await eventually(lambda: GOING_ON in said)
        last = ComputeTask(square, args=(40,))
        await session.submit(last)
        await session.wait()

    assert [task.return_value for task in (*first, *second, last)] == [number**2 for number in range(41)]
    assert any(os.strerror(code) in line for line in said)
    assert said.count(GOING_ON) == 1
    done = [event.uid for event in read_events(session.run_dir) if event.state is State.DONE]
    assert sorted(done) == sorted(task.uid for task in (*first, *second, last))
    assert Past(session.run_dir, {}).count_done() == 41
