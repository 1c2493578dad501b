"""`rhapsody run` where the end of the allocation is known: what is started, warned, ended, and with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody.model.event import State
from rhapsody.telemetry.reader import read_events
from tests.eventually import eventually
from tests.integration.command import WITHIN_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.command import Command, Ended

    Write = Callable[..., Path]

SLEEPERS = """
from rhapsody import ComputeTask

async def campaign(session, args):
    tasks = [ComputeTask(executable="sleep", arguments=["600"], uid=f"sleep-{n}") for n in range(5)]
    await session.submit(tasks)
    if args == ["fail"]:
        await session.wait(tasks[2:])  # they never start
        raise ValueError("of its own")
    if args == ["await"]:
        await tasks[-1]
    await session.wait(tasks)
    print("campaign ends")
"""
GATED = """
import os
from rhapsody import ComputeTask

async def campaign(session, args):
    for name in args:
        os.mkfifo(name)
    tasks = [ComputeTask(executable="sh", arguments=["-c", 'echo up > up.$1; read line < $1', "sh", name])
             for name in args]
    await session.submit(tasks)
    await session.wait(tasks)
"""


def last_line(ended: Ended) -> str:
    return ended.err.rstrip().rpartition("\n")[2]


def run_folder(command: Command) -> Path:
    (folder,) = (command.folder / "runs").iterdir()
    return folder


def in_seconds(seconds: float) -> str:
    """Return a moment as `RHAPSODY_DEADLINE` has it."""
    return f"{time.time() + seconds:.2f}"


# The end


async def test_tasks_that_time_was_too_short_for_give_75_and_say_how_to_go_on(command: Command, write: Write) -> None:
    write(SLEEPERS)

    ended = await command.run("study.py", "--cores", "2", "--walltime", "4s")

    assert ended.code == 75
    assert "rhapsody: the allocation ends in 4.0 s (walltime)\n" in ended.err
    assert re.search(
        r"out of time: the allocation ends in 0\.4 s; 2 running tasks go on, nothing new starts\n", ended.err
    )
    assert "tasks       5 CANCELED\n" in ended.err
    assert "Traceback" not in ended.err
    assert last_line(ended) == (
        f"not finished: 5 tasks are left; go on with: rhapsody run --resume {run_folder(command)}"
    )


async def test_tasks_that_were_ended_are_canceled_in_the_journal_before_the_allocation_ends(
    command: Command, write: Write
) -> None:
    write(SLEEPERS)
    deadline = time.time() + 5

    await command.run("study.py", "--cores", "2", RHAPSODY_DEADLINE=f"{deadline}")

    events = list(read_events(run_folder(command)))
    lasts = {event.uid: event for event in events}
    assert {str(event.state) for event in lasts.values()} == {"CANCELED"}
    assert sum(event.state is State.RUNNING for event in events) == 2
    assert max(event.time_ns for event in events) / 1e9 < deadline


@pytest.mark.parametrize("args", [["await"], []], ids=["awaits what is cancelled", "waits"])
async def test_campaign_that_ends_because_of_that_is_no_failure(
    command: Command, write: Write, args: list[str]
) -> None:
    write(SLEEPERS)

    ended = await command.run("study.py", *args, "--cores", "2", "--json", "--walltime", "3s")

    said = json.loads(ended.out)
    assert (ended.code, said["run"]["exit_code"], said["run"]["out_of_time"]) == (75, 75, True)
    assert said["run"]["error"].startswith("not finished: 5 tasks are left")
    assert said["failures"] == []


async def test_campaign_that_fails_for_a_reason_of_its_own_keeps_its_exit_code(command: Command, write: Write) -> None:
    write(SLEEPERS)

    ended = await command.run("study.py", "fail", "--cores", "2", "--walltime", "3s")

    assert ended.code == 1
    assert "ValueError: of its own" in ended.err
    assert "not finished" not in ended.err


async def test_campaign_that_can_submit_no_more_is_not_finished_although_no_task_is_left(
    command: Command, write: Write
) -> None:
    write(
        "from rhapsody import ComputeTask\n"
        "async def campaign(session, args):\n"
        "    while True:\n"
        "        await (await session.submit(ComputeTask(executable='sleep', arguments=['0.02'])))[0]\n"
    )

    ended = await command.run("study.py", "--cores", "1", "--walltime", "3s", "--drain", "1s")

    assert ended.code == 75
    assert re.search(r"tasks +\d+ DONE(  1 CANCELED)?\n", ended.err)
    assert re.match(r"not finished: (the campaign was stopped|1 task is left); go on with", last_line(ended))


async def test_without_a_journal_it_is_not_said_that_one_could_go_on(command: Command, write: Write) -> None:
    write(SLEEPERS)

    ended = await command.run("study.py", "--cores", "2", "--walltime", "3s", "--no-journal")

    assert ended.code == 75
    assert "--resume" not in ended.err


async def test_what_ends_during_the_drain_gives_0(command: Command, write: Write) -> None:
    write(GATED)
    running = command.start("study.py", "one", "--walltime", "20s", "--drain", "19s")
    await eventually((command.folder / "up.one").exists, within_s=WITHIN_S)

    await eventually(lambda: "out of time" in running.err, within_s=WITHIN_S)
    (command.folder / "one").write_text("\n")
    ended = await running.end()

    assert "1 running tasks go on, nothing new starts" in ended.err
    assert "tasks       1 DONE\n" in ended.err
    assert (ended.code, "not finished" in ended.err) == (0, False)


# Signals


async def test_sigusr1_begins_the_drain_at_once(command: Command, write: Write) -> None:
    write(GATED)
    running = command.start("study.py", "one", "two", "three", "--cores", "2")
    await eventually(lambda: len(list(command.folder.glob("up.*"))) == 2, within_s=WITHIN_S)

    running.process.send_signal(signal.SIGUSR1)
    await eventually(lambda: "out of time" in running.err, within_s=WITHIN_S)
    for gate in ("one", "two"):
        (command.folder / gate).write_text("\n")
    ended = await running.end()

    assert "out of time: SIGUSR1 was received; 2 running tasks go on, nothing new starts\n" in ended.err
    assert "tasks       2 DONE  1 CANCELED\n" in ended.err
    assert last_line(ended).startswith("not finished: 1 task is left; go on with: rhapsody run --resume ")
    assert ended.code == 75
    assert not (command.folder / "up.three").exists()


async def test_ctrl_c_stays_an_interruption_although_time_ran_out_too(command: Command, write: Write) -> None:
    write(GATED)
    running = command.start("study.py", "one", "two", "--cores", "1")
    await eventually((command.folder / "up.one").exists, within_s=WITHIN_S)

    running.process.send_signal(signal.SIGUSR1)
    await eventually(lambda: "out of time" in running.err, within_s=WITHIN_S)
    running.process.send_signal(signal.SIGINT)
    await eventually(lambda: "draining" in running.err, within_s=WITHIN_S)
    (command.folder / "one").write_text("\n")
    ended = await running.end()

    assert ended.code == 1
    assert last_line(ended).startswith("Error: interrupted; go on with: rhapsody run --resume ")


async def test_where_no_end_is_known_sigusr1_warns_those_that_ask_for_it(command: Command, write: Write) -> None:
    write(
        "from rhapsody import ComputeTask\n"
        "async def campaign(session, args):\n"
        "    text = 'trap \"echo saved > saved; exit 0\" USR1; echo up > up; while :; do sleep 0.05; done'\n"
        "    await session.submit(ComputeTask(executable='sh', arguments=['-c', text], warn_s=60))\n"
    )
    running = command.start("study.py", "--cores", "1")
    await eventually((command.folder / "up").exists, within_s=WITHIN_S)

    running.process.send_signal(signal.SIGUSR1)
    ended = await running.end()

    assert (command.folder / "saved").exists()
    assert "tasks       1 DONE\n" in ended.err
    assert ended.code == 0


# What is started


async def test_what_cannot_finish_is_not_started_and_what_is_behind_it_is(command: Command, write: Write) -> None:
    write(
        "from rhapsody import ComputeTask\n"
        "async def campaign(session, args):\n"
        "    long = ComputeTask(executable='touch', arguments=['long'], duration_s=600, priority=1)\n"
        "    short = ComputeTask(executable='touch', arguments=['short'], duration_s=0.1)\n"
        "    await session.submit([long, short])\n"
        "    await short\n"
        "    print(long.state, flush=True)\n"
    )

    ended = await command.run("study.py", "--cores", "1", "--walltime", "4s")

    assert ended.out == "READY\n"
    assert "tasks       1 DONE  1 CANCELED\n" in ended.err
    assert ended.code == 75
    assert not (command.folder / "long").exists()


async def test_tasks_and_campaign_know_how_much_time_is_left(command: Command, write: Write) -> None:
    write(
        "import rhapsody\n"
        "from rhapsody import ComputeTask\n"
        "def left():\n"
        "    return rhapsody.time_left()\n"
        "async def campaign(session, args):\n"
        "    function = ComputeTask(left)\n"
        "    program = ComputeTask(executable='printenv', arguments=['RHAPSODY_DEADLINE'])\n"
        "    await session.submit([function, program])\n"
        "    print((await function).return_value, session.time_left(), (await program).stdout.strip())\n"
    )
    deadline = time.time() + 1_000

    ended = await command.run("study.py", "--cores", "1", RHAPSODY_DEADLINE=f"{deadline}")

    in_task, in_campaign, moment = map(float, ended.out.split())
    assert 940 < in_campaign <= in_task <= 990  # what runs is ended ten seconds before the allocation
    assert abs(moment - (deadline - 10)) < 0.01


# Where it is known from


async def test_end_of_a_slurm_job_is_told_once_at_the_start(command: Command, write: Write) -> None:
    write("async def campaign(session, args):\n    pass\n")

    ended = await command.run("study.py", SLURM_JOB_END_TIME=str(int(time.time()) + 7_110), SLURM_JOB_ID="7")

    assert re.findall(r"the allocation ends in (.*)", ended.err) == ["1 h 58 min (SLURM_JOB_END_TIME)"]
    assert ended.code == 0


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (["--walltime", "soon"], {}, r"--walltime.*'soon' is no duration; write it like 2h, 90m"),
        (["--walltime", "1m", "--drain", "2m"], {}, r"drain_s=120 leaves no time: the allocation ends in 1 min"),
        ([], {"RHAPSODY_DEADLINE": "tomorrow"}, r"RHAPSODY_DEADLINE='tomorrow' is no moment"),
        ([], {"RHAPSODY_DEADLINE": "7200"}, r"RHAPSODY_DEADLINE='7200' was \d+ h \d\d min ago"),
        ([], {"SLURM_JOB_END_TIME": "never"}, r"SLURM_JOB_END_TIME='never' is no whole number"),
    ],
)
async def test_time_that_makes_no_sense_is_refused(
    command: Command, write: Write, args: list[str], env: dict[str, str], said: str
) -> None:
    write("async def campaign(session, args):\n    print('never called')\n")

    ended = await command.run("study.py", *args, **env)

    assert re.search(said, ended.err.replace("\n", " "))
    assert (ended.code, ended.out) == (2, "")
    assert not (command.folder / "runs").exists()


async def test_batch_system_that_does_not_answer_is_told_once_and_costs_nothing_else(
    command: Command, write: Write
) -> None:
    write("async def campaign(session, args):\n    print(session.time_left())\n")
    squeue = command.folder / "squeue"
    squeue.write_text("#!/bin/sh\necho 'slurm_load_jobs error: Unable to contact slurm controller' >&2\nexit 1\n")
    squeue.chmod(0o700)

    ended = await command.run("study.py", SLURM_JOB_ID="7", PATH=f"{command.folder}:{os.environ['PATH']}")

    assert ended.err.count("when the allocation ends is not known") == 1
    assert "Unable to contact slurm controller" in ended.err
    assert (ended.code, ended.out) == (0, "inf\n")
