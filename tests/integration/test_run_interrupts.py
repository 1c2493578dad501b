"""`rhapsody run` under Ctrl-C and SIGTERM, and on a terminal."""

from __future__ import annotations

import os
import pty
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.integration.command import WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.command import Command

    Write = Callable[..., Path]

WAITS_AT_GATES = """
import os
from rhapsody import ComputeTask

def task(number):
    text = 'echo $$ > up.tmp.$1; mv up.tmp.$1 up.$1; read line < gate.$1'
    return ComputeTask(executable="sh", arguments=["-c", text, "sh", number])

async def campaign(session, args):
    print("campaign prints this")
    tasks = [task(number) for number in range(5)]
    await session.submit(tasks)
    if args == ["await-last"]:
        await tasks[-1]
    await session.wait(tasks)
    print("campaign ends")
"""


class Gates:
    """The tasks of `WAITS_AT_GATES`: each says its process id, and ends when its gate is opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for number in range(5):
            os.mkfifo(folder / f"gate.{number}")

    def pids(self) -> list[int]:
        """Return the process ids of the tasks that were started."""
        return [int(file.read_text()) for file in self._folder.glob("up.[0-9]")]

    async def two_are_up(self) -> list[int]:
        """Wait until two tasks run and return their process ids."""
        await eventually(lambda: len(self.pids()) == 2, within_s=WITHIN_S, what="two tasks run")
        return self.pids()

    def open(self, *numbers: int) -> None:
        """Let tasks end."""
        for number in numbers:
            (self._folder / f"gate.{number}").write_text("\n")


@pytest.fixture
def gates(tmp_path: Path, write: Write) -> Gates:
    """Return the gates of the campaign file that was written with them."""
    write(WAITS_AT_GATES)
    return Gates(tmp_path)


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


# Interrupts


async def test_first_ctrl_c_lets_running_tasks_end_and_starts_no_more(command: Command, gates: Gates) -> None:
    running = command.start("study.py", "--cores", "2")
    await gates.two_are_up()

    running.interrupt()
    await eventually(lambda: "draining" in running.err, within_s=WITHIN_S)
    gates.open(0, 1)
    ended = await running.end()

    assert "draining: 2 running tasks end, nothing new starts; Ctrl-C again stops them\n" in ended.err
    assert ended.out == "campaign prints this\ncampaign ends\n"
    assert "tasks       2 DONE  3 CANCELED\n" in ended.err
    assert ended.err.splitlines()[-1].startswith("Error: interrupted; go on with: rhapsody run --resume ")
    assert ended.code == 1
    assert len(gates.pids()) == 2


async def test_first_ctrl_c_lets_running_tasks_end_although_the_campaign_awaits_one_that_is_cancelled(
    command: Command, gates: Gates
) -> None:
    running = command.start("study.py", "await-last", "--cores", "2")
    await gates.two_are_up()

    running.interrupt()
    await eventually(lambda: "draining" in running.err, within_s=WITHIN_S)
    gates.open(0, 1)
    ended = await running.end()

    assert "tasks       2 DONE  3 CANCELED\n" in ended.err
    assert "Traceback" not in ended.err
    assert ended.code == 1


async def test_second_ctrl_c_stops_running_tasks(command: Command, gates: Gates) -> None:
    running = command.start("study.py", "--cores", "2")
    pids = await gates.two_are_up()

    running.interrupt()
    await eventually(lambda: "draining" in running.err, within_s=WITHIN_S)
    running.interrupt()
    ended = await running.end()

    assert "tasks       5 CANCELED\n" in ended.err
    assert "campaign ends" not in ended.out
    assert "Traceback" not in ended.err
    assert ended.code == 1
    assert not any(map(is_alive, pids))


async def test_sigterm_stops_running_tasks_at_once(command: Command, gates: Gates) -> None:
    running = command.start("study.py", "--cores", "2")
    pids = await gates.two_are_up()

    running.process.terminate()
    ended = await running.end()

    assert "draining" not in ended.err
    assert "tasks       5 CANCELED\n" in ended.err
    assert ended.code == 1
    assert not any(map(is_alive, pids))


# On a terminal


class Screen:
    """The other end of a pseudo terminal: collects what is written to it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        self._bytes = b""

    def text(self) -> str:
        """Return all that was written so far, control sequences included."""
        while True:
            try:
                chunk = os.read(self._descriptor, 65536)
            except OSError:  # nothing there now, or nobody writes any more
                break
            if not chunk:
                break
            self._bytes += chunk
        return self._bytes.decode()

    def plain(self) -> str:
        """Return it without control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text())


async def test_terminal_shows_what_runs_and_keeps_what_is_printed(command: Command, gates: Gates) -> None:
    master, slave = pty.openpty()
    screen = Screen(master)
    try:
        process = command.start_on_terminal(slave, "study.py", "--cores", "2")
        await gates.two_are_up()
        await eventually(
            lambda: re.search(r"2x +\d:\d\d  sh", screen.plain()),
            within_s=WITHIN_S,
            what="the display shows both tasks",
        )
        during = screen.plain()
        os.killpg(process.pid, signal.SIGINT)
        await eventually(lambda: "draining" in screen.plain(), within_s=WITHIN_S)
        gates.open(0, 1)
        await eventually(lambda: (screen.text(), process.poll())[1] is not None, within_s=WITHIN_S)
        shown = screen.plain()
    finally:
        os.close(slave)
        os.close(master)

    assert "campaign prints this\r\n" in during
    assert re.search(r"\d:\d\d  RUNNING 2  (PLACED 1  )?READY \d", during)
    assert "rhapsody: draining: 2 running tasks end" in shown
    assert shown.splitlines()[-1].startswith("Error: interrupted; go on with: rhapsody run --resume ")
    assert process.returncode == 1
    assert screen._bytes.count(b"\x1b[?25l") == screen._bytes.count(b"\x1b[?25h")  # the cursor is back
