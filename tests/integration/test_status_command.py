"""`rhapsody status` of real runs: running, ended, crashed, damaged, without a journal, out of sight."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Any

from rhapsody.services.endpoints import Endpoint, publish
from tests.eventually import eventually
from tests.integration.command import WITHIN_S
from tests.integration.looking import GATED, Gated, next_line, rhapsody, runs_of, started

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.command import Command

    Write = Callable[..., Path]

SMALL = GATED.replace("range(4)", "range(0)")
"""The same campaign without tasks that wait at gates: it ends by itself."""


async def status_of(folder: Path, *args: str) -> dict[str, Any]:
    ended = await rhapsody(folder, "status", "--json", *args)
    assert ended.code == 0, ended.err
    found: dict[str, Any] = json.loads(ended.out)
    return found


def change_lease(run_dir: Path, **changes: object) -> None:
    """Let the newest lease say something else."""
    file = max((run_dir / "lease").glob("*.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


async def test_a_running_run_is_shown_with_what_runs_and_what_failed(command: Command) -> None:
    run = await Gated(command).up()

    ended = await rhapsody(command.folder, "status")

    assert ended.code == 0
    assert ended.err == ""
    assert ended.out.startswith(f"{run.run_dir.name}  RUNNING\n")
    assert f"process     {run.running.process.pid} on " in ended.out
    assert "2 RUNNING" in ended.out
    assert "9 DONE  1 FAILED" in ended.out
    assert re.search(r"runs for\n +2x +\d:\d\d  sh\n", ended.out)
    assert re.search(r"\n +1  exception  task\.\d{6}: ValueError: no such residue\n", ended.out)


async def test_services_of_a_running_run_are_shown_beside_it(command: Command) -> None:
    run = await Gated(command).up()
    publish(run.run_dir, Endpoint(name="store", url="http://node7:6379", node="node7", port=6379))

    shown = await rhapsody(command.folder, "status")
    told = await status_of(command.folder)

    assert "service     store at http://node7:6379; from elsewhere: rhapsody connect " in shown.out
    (service,) = told["services"]
    assert (service["name"], service["url"], service["node"]) == ("store", "http://node7:6379", "node7")
    assert (service["state"], service["models"], service["replicas"]) == (None, [], [])  # nobody of the run keeps it


async def test_a_running_run_is_told_to_programs(command: Command) -> None:
    run = await Gated(command).up()

    found = await status_of(command.folder)

    assert (found["schema"], found["run"]["condition"], found["run"]["pid"]) == (1, "RUNNING", run.running.process.pid)
    assert found["run"]["ended_s"] is None
    assert found["tasks"] == {"READY": 2, "RUNNING": 2, "DONE": 9, "FAILED": 1}
    assert [(kind["label"], kind["tasks"]) for kind in found["running"]] == [("sh", 2)]
    assert [(group["cause"], group["count"]) for group in found["failures"]] == [("exception", 1)]
    assert [session["session"] for session in found["sessions"]] == [1]


async def test_a_run_that_ended_is_shown_with_when_and_how(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")

    ended = await rhapsody(command.folder, "status")
    found = await status_of(command.folder)

    assert re.match(r"study-\d{8}-\d{6}-[0-9a-f]{4}  ENDED", ended.out)
    assert re.search(r"ended       \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(\d+ s ago\), after \d+\.\d s\n", ended.out)
    assert "tasks       9 DONE  1 FAILED\n" in ended.out
    assert "runs for" not in ended.out
    assert found["run"]["ended_s"] >= found["run"]["began_s"]
    assert found["rate_per_s"] is None


async def test_a_killed_run_is_shown_as_crashed_with_what_ran_then(command: Command) -> None:
    run = await Gated(command).up()
    run_dir = await run.crash()

    ended = await rhapsody(command.folder, "status", run_dir.name)

    assert ended.code == 0
    pid = run.running.process.pid
    assert re.search(rf"  CRASHED  \(process {pid} on \S+ is gone and did not end the run\)\n", ended.out)
    assert re.search(r"ran then for\n +2x +\d:\d\d  sh\n", ended.out)
    assert "2 RUNNING" in ended.out


async def test_a_run_on_another_host_that_is_silent_is_out_of_reach(command: Command) -> None:
    run_dir = await (await Gated(command).up()).crash()
    change_lease(run_dir, boot="another kernel", host="node7", time_ns=1_000_000_000)

    found = await status_of(command.folder)

    assert found["run"]["condition"] == "UNREACHABLE"
    assert "it ran on node7" in found["run"]["why"]


async def test_a_run_on_another_host_that_beats_is_running(command: Command) -> None:
    run = await Gated(command).up()
    run.running.process.send_signal(signal.SIGSTOP)
    change_lease(run.run_dir, boot="another kernel", host="node7")

    found = await status_of(command.folder)
    run.running.process.send_signal(signal.SIGCONT)

    assert (found["run"]["condition"], found["run"]["host"]) == ("RUNNING", "node7")


async def test_a_damaged_journal_is_told_with_file_and_offset_and_the_rest_is_counted(
    command: Command, write: Write
) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)
    file = run_dir / "journal" / "000001.log"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)

    ended = await rhapsody(command.folder, "status")

    assert ended.code == 1
    assert re.match(rf"Error: the journal is damaged: {file} at offset \d+: ", ended.err)
    assert "Traceback" not in ended.err
    assert "ENDED" in ended.out


async def test_the_torn_end_that_a_crash_leaves_is_no_damage(command: Command) -> None:
    run_dir = await (await Gated(command).up()).crash()
    with (run_dir / "journal" / "000001.log").open("ab") as file:
        file.write(b"\xa6RJ")

    ended = await rhapsody(command.folder, "status")

    assert ended.code == 0
    assert "journal     breaks off in 000001.log at offset " in ended.out


async def test_a_run_without_a_journal_is_told_of_by_what_it_left(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2", "--no-journal")

    ended = await rhapsody(command.folder, "status")

    assert ended.code == 0
    assert "tasks       9 DONE  1 FAILED\n" in ended.out
    assert "journal     none" in ended.out


async def test_watching_ends_with_the_run(command: Command) -> None:
    run = await Gated(command).up()

    async with started(command.folder, "status", "--watch", "--json") as watching:
        first = json.loads(await next_line(watching))
        await run.open(0, 1, 2, 3)
        out, _ = await asyncio.wait_for(watching.communicate(), WITHIN_S)
    last = json.loads(out.splitlines()[-1])

    assert watching.returncode == 0
    assert first["run"]["condition"] == "RUNNING"
    assert last["run"]["condition"] == "ENDED"
    assert last["tasks"] == {"DONE": 13, "FAILED": 1}


async def test_ctrl_c_ends_watching_without_a_word(command: Command) -> None:
    await Gated(command).up()

    async with started(command.folder, "status", "--watch") as watching:
        await next_line(watching)
        watching.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(watching.communicate(), WITHIN_S)

    assert watching.returncode == 0
    assert err == b""
    assert b"RUNNING" in out


async def test_a_target_that_is_not_there_is_refused_with_what_there_is(command: Command, write: Write) -> None:
    write(SMALL)
    await command.run("study.py", "--cores", "2")
    (run_dir,) = runs_of(command.folder)

    ended = await rhapsody(command.folder, "status", "fold")

    assert ended.code == 2
    assert ended.out == ""
    assert ended.err == (f"Error: there is no run 'fold' in {run_dir.parent}; the newest there:\n  {run_dir.name}\n")


async def test_a_campaign_in_a_plain_script_is_looked_at_like_any_other(command: Command, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import asyncio\nfrom rhapsody import ComputeTask, Session\n"
        "async def main():\n"
        "    async with Session(cores=1, name='plain') as session:\n"
        "        await session.submit(ComputeTask(len, args=('abc',)))\n"
        "asyncio.run(main())\n"
    )
    environ = {**os.environ, "RHAPSODY_RUNS": str(tmp_path / "runs")}
    script = await asyncio.create_subprocess_exec(sys.executable, "script.py", cwd=tmp_path, env=environ)
    await eventually(lambda: script.returncode is not None, within_s=WITHIN_S)

    found = await status_of(tmp_path)

    assert found["run"]["uid"].startswith("plain-")
    assert (found["run"]["condition"], found["run"]["campaign"]) == ("ENDED", None)
    assert found["tasks"] == {"DONE": 1}
