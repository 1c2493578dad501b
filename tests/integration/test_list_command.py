"""`rhapsody list` over real runs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from tests.integration.looking import GATED, Gated, rhapsody, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.command import Command

    Write = Callable[..., Path]

SMALL = GATED.replace("range(4)", "range(0)")


async def test_runs_are_listed_the_newest_first_in_eighty_columns(command: Command, write: Write) -> None:
    write(SMALL, "first.py")
    await command.run("first.py", "--cores", "2")
    crashed = await (await Gated(command, "second").up()).crash()
    running = (await Gated(command, "third").up()).run_dir

    ended = await rhapsody(command.folder, "list")
    lines = ended.out.splitlines()

    assert ended.code == 0
    assert ended.err == ""
    assert lines[0].split() == ["run", "state", "began", "done", "campaign"]
    assert re.match(rf"{running.name} +RUNNING +\d+ s ago +9/14  \S*third\.py$", lines[1])
    assert re.match(rf"{crashed.name} +CRASHED +\d+ s ago +9/14  \S*second\.py$", lines[2])
    assert re.match(r"first-\S+ +ENDED +\d+ s ago +9/10  \S*first\.py$", lines[3])
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80


async def test_runs_are_listed_for_programs(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)

    ended = await rhapsody(command.folder, "list", "--json", "--runs", "runs")
    found = json.loads(ended.out)
    (run,) = found["runs"]

    assert found["schema"] == 1
    assert (run["run"]["uid"], run["run"]["run_dir"]) == (run_dir.name, str(run_dir))
    assert (run["run"]["condition"], run["tasks"]) == ("ENDED", {"DONE": 9, "FAILED": 1})


async def test_an_empty_folder_has_no_runs(command: Command) -> None:
    (command.folder / "runs").mkdir()

    ended = await rhapsody(command.folder, "list")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"no runs in {command.folder / 'runs'}\n"


async def test_a_folder_that_is_not_there_is_an_error_of_the_input(command: Command) -> None:
    ended = await rhapsody(command.folder, "list", "--runs", "elsewhere")

    assert ended.code == 2
    assert f"the folder {command.folder / 'elsewhere'} does not exist" in ended.err


async def test_one_damaged_run_does_not_hide_the_others(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")
    (command.folder / "runs" / "torn").mkdir()
    (command.folder / "runs" / "torn" / "run.json").write_text('{"uid": ')

    ended = await rhapsody(command.folder, "list")

    assert ended.code == 1
    assert "study-" in ended.out
    assert ended.err.startswith(f"Error: torn: {command.folder / 'runs' / 'torn' / 'run.json'} is damaged: ")
