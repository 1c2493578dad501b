"""`rhapsody report` of real runs: running, ended, crashed, resumed, damaged, without a journal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.looking import GATED, Gated, rhapsody, runs_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.command import Command

    Write = Callable[..., Path]

MIXED = """
import time
from rhapsody import ComputeTask, Resources

def nap(number):
    time.sleep(0.15)

def fold(number):
    if number == 3:
        raise ValueError("no such residue")

def square(number):
    return number * number

async def campaign(session, args):
    naps = [ComputeTask(nap, args=(number,), resources=Resources(cores_per_rank=2)) for number in range(4)]
    await session.submit(naps)
    await session.wait()
    await session.submit([ComputeTask(fold, args=(number,)) for number in range(10)])
    await session.map(square, range(1_000))
    await session.wait()
"""
"""Four naps on both cores, one after the other; ten short tasks, one of which fails; and a map."""

DIES_ONCE = """
import os, signal
from pathlib import Path
from rhapsody import ComputeTask

def square(number):
    return number * number

async def campaign(session, args):
    await session.submit([ComputeTask(square, args=(number,)) for number in range(10)])
    await session.wait()
    if not Path("died").exists():
        Path("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    await session.submit([ComputeTask(square, args=(number,)) for number in range(10, 15)])
    await session.wait()
"""
"""The first time that it is run, its session is killed after ten tasks."""


async def report_of(folder: Path, *args: str) -> dict[str, Any]:
    ended = await rhapsody(folder, "report", "--json", *args)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


async def test_an_ended_run_is_reported_as_its_summary_has_it(command: Command, write: Write) -> None:
    write(MIXED)
    summary = json.loads((await command.run("study.py", "--cores", "2", "--json")).out)

    found = await report_of(command.folder)

    assert found["schema"] == 1
    assert found["run"]["condition"] == "ENDED"
    assert found["run"]["cores"] == 2
    assert found["tasks"] == summary["tasks"] == {"DONE": 1_013, "FAILED": 1}
    assert [(group["cause"], group["count"]) for group in found["failures"]] == [("exception", 1)]
    assert found["failures"][0]["example"] == "ValueError: no such residue"
    metrics = found["metrics"]
    assert metrics["overhead"]["tasks"] == 1_013
    assert metrics["TH"] * metrics["overhead"]["OVH_s"] == pytest.approx(1_013)
    assert 0.6 / metrics["overhead"]["OVH_s"] <= metrics["RU"]["cores"] <= 1
    assert metrics["RU"]["gpus"] is None
    assert metrics["HW"]["peak"] == 1
    assert metrics["ARR"]["count"] == 1_014
    most = found["ran"][0]
    assert (most["label"], most["type"], most["tasks"]) == ("nap", "serial-cpu-1", 4)
    assert most["busy_s"] >= 0.6


async def test_an_ended_run_is_told_to_people(command: Command, write: Write) -> None:
    write(MIXED)
    await command.run("study.py", "--cores", "2")

    ended = await rhapsody(command.folder, "report")

    assert (ended.code, ended.err) == (0, "")
    assert re.match(r"study-\d{8}-\d{6}-[0-9a-f]{4}  ENDED", ended.out)
    assert "tasks       1,013 DONE  1 FAILED\n" in ended.out
    assert "on          local backend, 2 cores, 0 GPUs\n" in ended.out
    assert re.search(r"\nthroughput +TH +[\d,]+/s +1,013 done in ", ended.out)
    assert re.search(r"\ncores in use +RU +\d+\.\d% +of 2 cores\n", ended.out)
    assert re.search(r"\ntypes at once +HW +0\.\d\d on average +1 at most\n", ended.out)
    assert re.search(r"\nplaced → running ", ended.out)
    assert re.search(r"\nnap +serial-cpu-1 +4 +\d\.\d s +\d+ ms\n", ended.out)
    assert re.search(r"\nsquare \(map\) +serial-cpu-1 +1,000 ", ended.out)
    assert re.search(r"\n +1  exception  task\.\d{6}: ValueError: no such residue\n", ended.out)


async def test_a_running_run_is_reported_up_to_its_last_event(command: Command) -> None:
    await Gated(command).up()

    found = await report_of(command.folder)
    ended = await rhapsody(command.folder, "report")

    assert found["run"]["condition"] == "RUNNING"
    assert found["tasks"] == {"READY": 2, "RUNNING": 2, "DONE": 9, "FAILED": 1}
    assert 0 < found["metrics"]["RU"]["cores"] <= 1
    assert "up to the last event" in ended.out


async def test_a_crashed_run_is_reported_and_says_so(command: Command) -> None:
    run_dir = await (await Gated(command).up()).crash()

    found = await report_of(command.folder, run_dir.name)

    assert found["run"]["condition"] == "CRASHED"
    assert "is gone" in found["run"]["why"]
    assert found["tasks"]["RUNNING"] == 2
    assert found["metrics"]["TH"] > 0


async def test_a_resumed_run_is_reported_over_all_its_sessions(command: Command, write: Write) -> None:
    write(DIES_ONCE)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)
    crashed = await report_of(command.folder)
    await command.run("--resume", run_dir.name)

    found = await report_of(command.folder)

    assert (crashed["run"]["condition"], crashed["tasks"]) == ("CRASHED", {"DONE": 10})
    assert (found["run"]["condition"], found["tasks"]) == ("ENDED", {"DONE": 15})
    sessions = [(each["session"], each["done"], each["restored"]) for each in found["run"]["sessions"]]
    assert sessions == [(1, 10, 0), (2, 5, 10)]
    assert found["metrics"]["overhead"]["tasks"] == 15
    spans_s = [(each["end_ns"] - each["begin_ns"]) / 1e9 for each in found["run"]["sessions"]]
    assert found["metrics"]["overhead"]["OVH_s"] == pytest.approx(sum(spans_s))


async def test_a_damaged_journal_is_reported_up_to_the_damage(command: Command, write: Write) -> None:
    write(MIXED)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)
    segment = run_dir / "journal" / "000001.log"
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 0xFF
    segment.write_bytes(data)

    ended = await rhapsody(command.folder, "report", "--json")
    for_people = await rhapsody(command.folder, "report")

    assert ended.code == for_people.code == 1
    found = json.loads(ended.out)
    assert re.search(rf"{re.escape(str(segment))} at offset \d+", found["run"]["damage"])
    assert 0 < found["tasks"]["DONE"] < 1_013
    assert re.search(r"^Error: the journal is damaged: .*000001\.log at offset \d+: .*before that\n$", for_people.err)
    assert "throughput" in for_people.out


async def test_a_run_without_a_journal_cannot_be_reported(command: Command, write: Write) -> None:
    write(GATED.replace("range(4)", "range(0)"))
    await command.run("study.py", "--cores", "2", "--no-journal")

    ended = await rhapsody(command.folder, "report")

    assert (ended.code, ended.out) == (2, "")
    assert "has no journal" in ended.err
    assert "rhapsody status" in ended.err


@pytest.mark.parametrize("args", [(), ("study-2020",), ("/nowhere/at/all",)])
async def test_a_run_that_is_not_there_is_an_error_of_the_input(args: tuple[str, ...], command: Command) -> None:
    ended = await rhapsody(command.folder, "report", *args)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error: ")
    assert "Traceback" not in ended.err


async def test_the_metrics_of_a_run_are_there_for_scripts(command: Command, write: Write) -> None:
    write(MIXED)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)
    script = "import sys; from pathlib import Path; from rhapsody.telemetry.metrics import measure; "
    script += "print(measure(Path(sys.argv[1])).done)"

    said = subprocess.run(  # noqa: ASYNC221 - nothing else happens meanwhile
        [sys.executable, "-c", script, run_dir], capture_output=True, check=True, env=dict(os.environ)
    )

    assert said.stdout == b"1013\n"
