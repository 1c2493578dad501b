"""`rhapsody run` as users meet it: a process of its own, real tasks, real signals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Write = Callable[..., Path]

WITHIN_S = 30.0

GOOD = """
from dataclasses import dataclass
from rhapsody import ComputeTask
from beside import double

@dataclass
class Pose:
    score: int

def dock(number):
    return Pose(double(number))

async def campaign(session, args):
    tasks = [ComputeTask(dock, args=(number,)) for number in range(20)]
    await session.submit(tasks)
    poses = [(await task).return_value for task in tasks]
    assert all(isinstance(pose, Pose) for pose in poses)
    print("best", max(pose.score for pose in poses))
"""

SHOWS_WHAT_IT_GETS = """
import json
async def campaign(session, args):
    shape = session.allocation.nodes[0].shape
    print(json.dumps([args, shape.cores, session.run_dir.parent.name, session.uid.rsplit("-", 3)[0]]))
"""

FAILS = """
from rhapsody import ComputeTask

def fold(number):
    if number == 3:
        raise ValueError("no such residue")

async def campaign(session, args):
    tasks = [ComputeTask(fold, args=(number,)) for number in range(5)]
    await session.submit(tasks)
    if args == ["await"]:
        for task in tasks:
            await task
    if args == ["raise"]:
        await session.wait(tasks)
        raise KeyError("grid")
    if args == ["wrong"]:
        await session.submit(ComputeTask(executable="no-such-program"))
"""

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


class Ended(NamedTuple):
    """What a command that has ended said."""

    code: int
    out: str
    err: str


class Running:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, err: Path) -> None:
        self.process = process
        self._out, self._err = out, err

    @property
    def err(self) -> str:
        """What it said on standard error so far."""
        return self._err.read_text()

    def interrupt(self) -> None:
        """Do what a terminal does on Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    async def end(self) -> Ended:
        """Wait for the end and return what was said."""
        await eventually(lambda: self.process.poll() is not None, within_s=WITHIN_S, what="the command ends")
        return Ended(self.process.returncode, self._out.read_text(), self._err.read_text())


class Command:
    """Starts `rhapsody run` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[Running] = []

    def start(self, *args: str, **env: str) -> Running:
        """Start it with its outputs in files."""
        number = len(self.started)
        out, err = self.folder / f"out.{number}", self.folder / f"err.{number}"
        with out.open("wb") as to_out, err.open("wb") as to_err:
            process = self._popen(args, env, to_out.fileno(), to_err.fileno())
        self.started.append(Running(process, out, err))
        return self.started[-1]

    def start_on_terminal(self, terminal: int, *args: str) -> subprocess.Popen[bytes]:
        """Start it with its outputs on a terminal."""
        process = self._popen(args, {"TERM": "xterm", "COLUMNS": "90", "LINES": "24"}, terminal, terminal)
        self.started.append(Running(process, Path(os.devnull), Path(os.devnull)))
        return process

    async def run(self, *args: str, **env: str) -> Ended:
        """Run it to its end."""
        return await self.start(*args, **env).end()

    def _popen(self, args: tuple[str, ...], env: dict[str, str], out: int, err: int) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RHAPSODY_")}
        return subprocess.Popen(
            # Where the tests run in the background, Ctrl-C is ignored, and children would inherit that.
            ["/usr/bin/env", "--default-signal=INT", sys.executable, "-m", "rhapsody", "run", *args],
            cwd=self.folder,
            env={"RHAPSODY_RUNS": str(self.folder / "runs"), **inherited, **env},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )


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


# Runs that end by themselves


async def test_campaign_prints_to_standard_output_and_the_summary_goes_to_standard_error(
    command: Command, write: Write
) -> None:
    write(GOOD)
    write("def double(number):\n    return 2 * number\n", "beside.py")

    ended = await command.run("study.py", "--cores", "2")

    assert ended.code == 0, ended.err
    assert ended.out == "best 38\n"
    assert re.search(r"^tasks       20 DONE$", ended.err, re.MULTILINE)
    folder = re.search(r"^run folder  (.*)$", ended.err, re.MULTILINE)
    assert folder
    assert (Path(folder[1]) / "run.json").is_file()


async def test_arguments_that_are_no_options_of_the_command_reach_the_campaign(command: Command, write: Write) -> None:
    write(SHOWS_WHAT_IT_GETS)

    ended = await command.run("study.py", "one", "--cores", "1", "--depth=3", "-x", "--", "--cores", "9", "--help")

    assert json.loads(ended.out)[:2] == [["one", "--depth=3", "-x", "--cores", "9", "--help"], 1]


async def test_flags_go_before_variables(command: Command, write: Write) -> None:
    write(SHOWS_WHAT_IT_GETS)

    ended = await command.run("study.py", "--cores", "2", "--runs", "here", RHAPSODY_CORES="3", RHAPSODY_RUNS="there")

    assert json.loads(ended.out)[1:] == [2, "here", "study"]


async def test_variables_are_used_where_no_flag_is_given(command: Command, write: Write) -> None:
    write(SHOWS_WHAT_IT_GETS)

    ended = await command.run("study.py", "--name", "screening", RHAPSODY_CORES="3", RHAPSODY_RUNS="there")

    assert json.loads(ended.out)[1:] == [3, "there", "screening"]


async def test_more_cores_than_there_are_is_said_once(command: Command, write: Write) -> None:
    write(SHOWS_WHAT_IT_GETS)
    cores = len(os.sched_getaffinity(0)) + 1

    ended = await command.run("study.py", "--cores", str(cores))

    assert ended.err.count("oversubscribed") == 1


async def test_json_is_all_that_standard_output_gets_when_it_is_asked_for(command: Command, write: Write) -> None:
    write(FAILS)

    ended = await command.run("study.py", "--cores", "1", "--json")

    found = json.loads(ended.out)
    assert found["tasks"] == {"DONE": 4, "FAILED": 1}
    assert found["run"]["exit_code"] == ended.code == 1


async def test_quiet_run_that_went_well_says_nothing(command: Command, write: Write) -> None:
    write("async def campaign(session, args): ...\n")

    ended = await command.run("study.py", "--cores", "1", "--quiet")

    assert ended == Ended(0, "", "")


async def test_run_is_journaled_unless_told_not_to(command: Command, write: Write) -> None:
    write(GOOD)
    write("def double(number):\n    return 2 * number\n", "beside.py")

    await command.run("study.py", "--cores", "1", "--runs", "with")
    await command.run("study.py", "--cores", "1", "--runs", "without", "--no-journal")

    assert len(list(command.folder.glob("*/*/run.json"))) == 2
    assert {file.parts[-4] for file in command.folder.glob("*/*/journal/*")} == {"with"}


# What goes wrong


@pytest.mark.parametrize(
    ("args", "text", "said"),
    [
        (["nowhere.py"], GOOD, "campaign file nowhere.py does not exist; campaigns in that folder: study.py"),
        (["."], GOOD, ". is a folder, not a campaign file; campaigns in that folder: study.py"),
        (["study.py"], "import no_such_module\n", "No module named 'no_such_module'"),
        (["study.py"], "async def campaign(session, args)\n", "SyntaxError"),
        (["study.py"], "async def main(session, args): ...\n", "has no `campaign`, but `async def main`"),
        (["study.py"], "def campaign(session, args): ...\n", "study.py:1: `campaign` is a plain `def`"),
        (["study.py"], "async def campaign(session): ...\n", "cannot be called with (session, args)"),
        (["study.py", "--backend", "flx"], GOOD, "unknown backend 'flx'; valid: auto, local"),
        (["study.py", "--cores", "0"], GOOD, "'--cores'"),
        (["study.py", "--placement", "tight"], GOOD, "'pack', 'spread'"),
        (["--core", "2", "study.py"], GOOD, "No such option '--core'. Did you mean '--cores'?"),
        (["study.py", "--runs", "/proc/runs"], GOOD, "choose another place with --runs"),
    ],
)
async def test_wrong_input_gives_2_and_one_clear_error(
    command: Command, write: Write, args: list[str], text: str, said: str
) -> None:
    write(text)
    write("double = int\n", "beside.py")

    ended = await command.run(*args)

    assert ended.code == 2, ended.err
    assert said in ended.err
    assert len(re.findall("^Error: ", ended.err, re.MULTILINE)) == 1
    assert "rhapsody/cli" not in ended.err
    assert ended.out == ""


async def test_mistyped_option_behind_the_file_is_pointed_out(command: Command, write: Write) -> None:
    write(SHOWS_WHAT_IT_GETS)

    ended = await command.run("study.py", "--core=1")

    assert "--core goes to the campaign; if you meant --cores, correct it" in ended.err


async def test_failure_nobody_looked_at_gives_1_and_its_cause(command: Command, write: Write) -> None:
    write(FAILS)

    ended = await command.run("study.py", "--cores", "1")

    assert ended.code == 1
    assert "     1  exception  task.000004: ValueError: no such residue\n" in ended.err
    assert ended.err.endswith("1 task failed and the campaign never looked: await them, or read their `exception`\n")


async def test_failure_that_was_not_caught_shows_its_traceback_once(command: Command, write: Write) -> None:
    write(FAILS)

    ended = await command.run("study.py", "await", "--cores", "1")

    assert ended.code == 1
    assert "Error: study.py:13: task.000004: ValueError: no such residue\nTraceback" in ended.err
    assert ended.err.count('raise ValueError("no such residue")') == 1
    assert "rhapsody/" not in ended.err.replace(str(command.folder), "")
    assert re.search(r"^tasks .* 1 FAILED", ended.err, re.MULTILINE)


async def test_exception_of_the_campaign_shows_its_own_lines_then_the_summary(command: Command, write: Write) -> None:
    file = write(FAILS)

    ended = await command.run("study.py", "raise", "--cores", "1")

    assert ended.code == 1
    traceback, _, rest = ended.err.partition("KeyError: 'grid'\n")
    assert f'File "{file}", line 16, in campaign' in traceback
    assert traceback.count("File ") == 1
    assert "tasks       4 DONE  1 FAILED" in rest


async def test_wrong_task_gives_2_and_the_line_that_made_it(command: Command, write: Write) -> None:
    write(FAILS)

    ended = await command.run("study.py", "wrong", "--cores", "1")

    assert ended.code == 2
    assert re.search(r"^Error: study.py:18: .*'no-such-program' is not on PATH", ended.err, re.MULTILINE)
    assert "Traceback" not in ended.err


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
    assert ended.err.endswith("Error: interrupted\n")
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
        await eventually(lambda: "sh  x2" in screen.plain(), within_s=WITHIN_S, what="the display shows both tasks")
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
    assert shown.endswith("Error: interrupted\r\n")
    assert process.returncode == 1
    assert screen._bytes.count(b"\x1b[?25l") == screen._bytes.count(b"\x1b[?25h")  # the cursor is back


# The command itself


def test_help_needs_nothing_heavy() -> None:
    code = "import sys, rhapsody.cli.main; print(*{'asyncio', 'pydantic', 'rich', 'cloudpickle'} & sys.modules.keys())"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert found.stdout.split() == []


@pytest.mark.parametrize("command_line", [["rhapsody"], ["python", "-m", "rhapsody"]])
def test_command_says_its_version_however_it_is_started(command_line: list[str]) -> None:
    program, *args = command_line
    path = Path(sys.executable).with_name(program)

    said = subprocess.run([path, *args, "--version"], capture_output=True, text=True, check=True)

    assert re.fullmatch(r"rhapsody \d+\.\d+\.\d+\n", said.stdout)
