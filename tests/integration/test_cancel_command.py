"""`rhapsody cancel` on real runs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody.cli import ending
from rhapsody.node.processes import started_at
from rhapsody.session.lease import local_boot, read_holder
from tests.eventually import eventually
from tests.integration.command import WITHIN_S
from tests.integration.looking import GATED, Gated, rhapsody, runs_of, started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.integration.command import Command

    Write = Callable[..., Path]

SMALL = GATED.replace("range(4)", "range(0)")


async def test_a_running_run_is_stopped(command: Command) -> None:
    run = await Gated(command).up()
    pids = run.at_gates.values()

    ended = await rhapsody(command.folder, "cancel")
    ran = await run.running.end()

    assert ended.code == 0
    assert ended.out == f"{run.run_dir.name} has ended: 9 DONE, 1 FAILED, 4 CANCELED\n"
    assert f"asked process {run.running.process.pid} on " in ended.err
    assert ran.code == 1
    assert not any(started_at(pid) for pid in pids)


async def test_a_draining_run_ends_what_runs_and_starts_no_more(command: Command) -> None:
    run = await Gated(command).up()

    async with started(command.folder, "cancel", run.run_dir.name, "--drain") as cancelling:
        await eventually(lambda: "rhapsody: draining" in run.running.err, within_s=WITHIN_S, what="the run drains")
        await run.open(*run.at_gates)
        out, _ = await asyncio.wait_for(cancelling.communicate(), WITHIN_S)

    assert cancelling.returncode == 0
    assert out.decode() == f"{run.run_dir.name} has ended: 11 DONE, 1 FAILED, 2 CANCELED\n"


async def test_a_second_request_to_drain_stops_nothing(command: Command) -> None:
    run = await Gated(command).up()
    await rhapsody(command.folder, "cancel", "--drain", "--no-wait")
    await eventually(lambda: "rhapsody: draining" in run.running.err, within_s=WITHIN_S, what="the run drains")

    impatient = await rhapsody(command.folder, "cancel", "--drain", "--limit", "2.5")
    await run.open(*run.at_gates)
    ran = await run.running.end()

    assert impatient.code == 1
    assert f"Error: {run.run_dir.name} has not ended within 2.5 s: 2 tasks still run;\n" in impatient.err
    assert f"look at it: rhapsody status {run.run_dir}\n" in impatient.err
    assert "11 DONE  1 FAILED  2 CANCELED" in ran.err


async def test_not_to_wait_returns_while_the_run_goes_on(command: Command) -> None:
    run = await Gated(command).up()
    began = time.monotonic()

    ended = await rhapsody(command.folder, "cancel", "--drain", "--no-wait")

    assert ended.code == 0
    assert ended.out == ""
    assert time.monotonic() - began < 10
    assert run.running.process.poll() is None


async def test_a_run_that_ended_is_left_alone(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)

    ended = await rhapsody(command.folder, "cancel", run_dir.name)

    assert (ended.code, ended.out) == (0, f"{run_dir.name} has ended already\n")


async def test_a_crashed_run_is_left_alone(command: Command) -> None:
    run_dir = await (await Gated(command).up()).crash()

    ended = await rhapsody(command.folder, "cancel", str(run_dir))

    assert (ended.code, ended.out) == (0, f"{run_dir.name} has crashed already\n")


async def test_without_a_target_nothing_is_guessed_when_none_is_running(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")

    ended = await rhapsody(command.folder, "cancel")

    assert ended.code == 2
    assert ended.err.startswith(f"Error: no run in {command.folder / 'runs'} is running")


async def test_without_a_target_nothing_is_guessed_when_two_are_running(command: Command) -> None:
    first = await Gated(command, "first").up()
    second = await Gated(command, "second").up()

    ended = await rhapsody(command.folder, "cancel")

    assert ended.code == 2
    assert "2 runs in" in ended.err
    assert f"\n  {second.run_dir.name}\n  {first.run_dir.name}\n" in ended.err
    assert first.running.process.poll() is second.running.process.poll() is None


# A holder that does not listen


@pytest.fixture
def deaf(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Return a process that holds the lease of the run `tmp_path/deaf`, and never looks at it."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "deaf" / "lease").mkdir(parents=True)
    (tmp_path / "deaf" / "run.json").write_text("{}")
    holder = {
        "number": 1,
        "host": "here",
        "boot": local_boot(),
        "pid": process.pid,
        "started": started_at(process.pid),
        "token": "its",
        "since_ns": time.time_ns(),
        "time_ns": time.time_ns(),
    }
    (tmp_path / "deaf" / "lease" / "000001.json").write_text(json.dumps(holder))
    yield process
    process.kill()
    process.communicate()


def test_a_process_that_does_not_listen_is_pressed_by_a_signal(
    deaf: subprocess.Popen[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ending, "PRESS_AFTER_S", 0.01)

    code = ending.end_run(tmp_path / "deaf", drain=False, limit_s=WITHIN_S)

    assert code == 0
    assert "deaf runs no more: process " in capsys.readouterr().out


def test_a_process_that_has_the_pid_of_the_holder_by_now_is_not_signaled(
    deaf: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    holder = read_holder(tmp_path / "deaf")
    assert holder is not None
    file = tmp_path / "deaf" / "lease" / "000001.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"started": holder.started - 1}))

    code = ending.end_run(tmp_path / "deaf", drain=False, limit_s=0.0)

    assert code == 0
    assert not ending._signal(read_holder(tmp_path / "deaf") or holder, signal.SIGTERM)
    assert os.waitpid(deaf.pid, os.WNOHANG) == (0, 0)
