"""`rhapsody logs` of real runs and of their tasks."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from tests.integration.command import WITHIN_S
from tests.integration.looking import GATED, Gated, next_line, rhapsody, runs_of, started

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.command import Command

    Write = Callable[..., Path]

SMALL = GATED.replace("range(4)", "range(0)")

RETRIES = """
import os
from rhapsody import ComputeTask, Retry

async def campaign(session, args):
    text = 'echo attempt $RHAPSODY_ATTEMPT; test $RHAPSODY_ATTEMPT = 2'
    task = ComputeTask(
        executable="sh", arguments=["-c", text], uid="again", capture_stdio=True, retry=Retry(attempts=3)
    )
    await session.submit(task)
    await session.map(abs, range(3), uid="distances")
    await session.wait()
"""


async def ended_run(command: Command, write: Write, text: str = SMALL) -> Path:
    """Let a campaign run to its end; return the run folder."""
    write(text)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)
    return run_dir


# Of a run


async def test_the_logs_of_a_run_are_shown_behind_their_names(command: Command, write: Write) -> None:
    logs = await ended_run(command, write) / "logs"
    (logs / "session.log").write_text("it began\nit ended")
    (logs / "workers-node1.log").write_bytes(b"caf\xe9\n")
    (logs / "2").mkdir()
    (logs / "2" / "session.log").write_text("it went on\n")
    (logs / "someone.1.out").write_text("of a task\n")
    for file in logs.glob("workers-*.log"):
        if "node1" not in file.name:
            file.unlink()

    ended = await rhapsody(command.folder, "logs")

    assert ended.code == 0
    assert ended.out.splitlines() == [
        "session | it began",
        "session | it ended",
        "workers-node1 | caf\ufffd",
        "2/session | it went on",
    ]


async def test_a_run_that_said_nothing_has_no_output_and_a_hint(command: Command, write: Write) -> None:
    run_dir = await ended_run(command, write)
    for file in (run_dir / "logs").iterdir():
        file.unlink()

    ended = await rhapsody(command.folder, "logs")

    assert (ended.code, ended.out) == (0, "")
    assert ended.err == f"the logs of {run_dir.name} are empty; how it is: rhapsody status {run_dir}\n"


async def test_following_a_run_ends_with_it(command: Command) -> None:
    run = await Gated(command).up()
    log = run.run_dir / "logs" / "workers-other.log"
    log.write_text("one\ntw")

    async with started(command.folder, "logs", "-f") as following:
        while await next_line(following) != "workers-other | one\n":
            pass
        with log.open("a") as file:
            file.write("o\nthree")
        await run.open(0, 1, 2, 3)
        out, err = await asyncio.wait_for(following.communicate(), WITHIN_S)

    assert following.returncode == 0
    assert err == b""
    assert [line for line in out.decode().splitlines() if "other" in line] == [
        "workers-other | two",
        "workers-other | three",
    ]


async def test_ctrl_c_ends_following_without_a_word(command: Command) -> None:
    run = await Gated(command).up()
    (run.run_dir / "logs" / "workers-other.log").write_text("one\n")

    async with started(command.folder, "logs", "-f") as following:
        await next_line(following)
        following.send_signal(signal.SIGINT)
        _, err = await asyncio.wait_for(following.communicate(), WITHIN_S)

    assert (following.returncode, err) == (0, b"")
    assert run.running.process.poll() is None


async def test_a_broken_pipe_is_no_traceback(command: Command, write: Write) -> None:
    run_dir = await ended_run(command, write)
    (run_dir / "logs" / "session.log").write_text("a line\n" * 200_000)

    async with started(command.folder, "logs") as showing:
        first = await next_line(showing)
        assert showing.stdout is not None
        showing.stdout._transport.close()  # type: ignore[attr-defined]  # what `head -1` does
        await asyncio.wait_for(showing.wait(), WITHIN_S)
        assert showing.stderr is not None
        err = await showing.stderr.read()

    assert first == "session | a line\n"
    assert err == b""


# Of a task


async def test_the_whole_output_of_a_task_is_shown_as_it_was_printed(command: Command) -> None:
    run = await Gated(command).up()
    up = min(run.at_gates)

    out = await rhapsody(command.folder, "logs", "--task", f"gate-{up}")
    err = await rhapsody(command.folder, "logs", run.run_dir.name, "--task", f"gate-{up}", "--stderr")

    assert (out.code, out.out, out.err) == (0, "out\n", "")
    assert (err.code, err.out, err.err) == (0, "err\n", "")


async def test_of_a_task_that_was_tried_again_the_newest_attempt_is_shown(command: Command, write: Write) -> None:
    await ended_run(command, write, RETRIES)

    ended = await rhapsody(command.folder, "logs", "--task", "again")

    assert (ended.code, ended.out) == (0, "attempt 2\n")


async def test_of_a_task_in_a_resumed_run_the_newest_session_is_shown(command: Command, write: Write) -> None:
    run_dir = await ended_run(command, write, RETRIES)
    (run_dir / "logs" / "2").mkdir()
    (run_dir / "logs" / "2" / "again.1.out").write_text("once more\n")

    ended = await rhapsody(command.folder, "logs", "--task", "again")

    assert ended.out == "once more\n"


async def test_following_a_task_ends_when_it_has_ended(command: Command) -> None:
    run = await Gated(command).up()
    up = min(run.at_gates)

    async with started(command.folder, "logs", "-f", "--task", f"gate-{up}") as following:
        first = await next_line(following)
        await run.open(up)
        rest, err = await asyncio.wait_for(following.communicate(), WITHIN_S)

    assert (following.returncode, first, rest, err) == (0, "out\n", b"", b"")
    assert run.running.process.poll() is None


async def test_of_a_task_without_kept_output_it_is_said_how_it_ended(command: Command, write: Write) -> None:
    await ended_run(command, write)

    ended = await rhapsody(command.folder, "logs", "--task", "task.000004")

    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(
        "nothing is kept of what task.000004 (fold) printed; it is FAILED, attempt 1: exception: ValueError: no such"
    )
    assert "capture_stdio=True" in ended.err


async def test_of_a_map_the_logs_of_the_workers_are_named(command: Command, write: Write) -> None:
    await ended_run(command, write, RETRIES)

    ended = await rhapsody(command.folder, "logs", "--task", "distances")

    assert ended.code == 1
    assert "distances (abs) printed; it is DONE" in ended.err
    assert "goes to the logs of the workers" in ended.err


async def test_a_task_that_waits_has_printed_nothing_yet(command: Command) -> None:
    run = await Gated(command).up()
    waiting = min({0, 1, 2, 3} - run.at_gates.keys())

    ended = await rhapsody(command.folder, "logs", "--task", f"gate-{waiting}")

    assert ended.code == 1
    assert "it is READY" in ended.err
    assert "it has not started\n" in ended.err


async def test_a_task_that_is_not_there_is_an_error_of_the_input(command: Command, write: Write) -> None:
    run_dir = await ended_run(command, write)
    (run_dir / "secret.1.out").write_text("not a task's\n")

    unknown = await rhapsody(command.folder, "logs", "--task", "../secret")
    alone = await rhapsody(command.folder, "logs", "--stderr")

    assert unknown.code == 2
    assert unknown.err.startswith(f"Error: the run {run_dir.name} has no task '../secret'; ")
    assert alone.code == 2
    assert "--stderr belongs to --task UID" in alone.err
