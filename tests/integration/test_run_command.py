"""`rhapsody run` as users meet it: a process of its own, real tasks, files and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.command import Ended

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.command import Command

    Write = Callable[..., Path]

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
        (["study.py", "--backend", "flx"], GOOD, "unknown backend 'flx'; valid: auto, dragon, local"),
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
