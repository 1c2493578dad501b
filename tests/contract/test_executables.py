"""Executables as tasks: what they are given, how many run at once, and what becomes of those that cannot start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody import Completed, ComputeTask, SpecError, TaskFailed
from tests.contract import work

if TYPE_CHECKING:
    from rhapsody import Session


async def test_executable_gets_its_arguments_as_texts(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="printf", arguments=["%s|%s|%s", "a b", 7, "$HOME"]))

    await task

    assert (task.stdout, task.stderr, task.exit_code) == ("a b|7|$HOME", "", 0)


async def test_value_of_an_executable_says_how_it_completed(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="/bin/sh", arguments=["-c", "echo out; echo err >&2"]))

    await task

    assert task.return_value == Completed(0, "out\n", "err\n", os.getcwd())  # noqa: PTH109


async def test_executable_runs_in_its_folder_with_its_environment(session: Session, tmp_path: Path) -> None:
    [task] = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", 'echo "$PWD $FLAVOUR"'], cwd=tmp_path, env={"FLAVOUR": "sour"})
    )

    await task

    assert task.stdout == f"{tmp_path} sour\n"
    assert task.return_value.cwd == str(tmp_path)


async def test_executable_finds_uid_attempt_and_run_folder_in_its_environment(session: Session) -> None:
    script = 'echo "$RHAPSODY_TASK_UID $RHAPSODY_ATTEMPT $RHAPSODY_RUN_DIR"'
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", script], uid="my-run"))

    await task

    assert task.stdout == f"my-run 1 {session.run_dir}\n"


async def test_executable_is_found_by_its_path_in_its_own_folder(session: Session, tmp_path: Path) -> None:
    script = tmp_path / "program"
    script.write_text("#!/bin/sh\necho found\n")
    script.chmod(0o700)

    [task] = await session.submit(ComputeTask(executable="./program", cwd=tmp_path))
    await task

    assert task.stdout == "found\n"


async def test_exit_code_of_a_failed_executable_is_kept_with_its_last_line(session: Session) -> None:
    script = "echo first >&2; echo 'no such atom: X9' >&2; exit 42"
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", script]))

    with pytest.raises(TaskFailed, match=r"exited with code 42.*no such atom: X9") as caught:
        await task

    assert caught.value.cause == "exit_code"
    assert (task.exit_code, task.stderr) == (42, "first\nno such atom: X9\n")


async def test_executable_ended_by_a_signal_names_it(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", "kill -SEGV $$"]))

    with pytest.raises(TaskFailed, match=r"signal 11 .SIGSEGV.") as caught:
        await task

    assert (caught.value.cause, task.exit_code) == ("signal", -11)


async def test_executable_that_is_not_there_is_refused_with_all_of_its_submission(session: Session) -> None:
    tasks = [ComputeTask(abs, args=(-1,)), ComputeTask(executable="no-such-program")]

    with pytest.raises(SpecError, match="no-such-program"):
        await session.submit(tasks)

    assert [str(task.state) for task in tasks] == ["NEW", "NEW"]


async def test_folder_that_is_not_there_is_refused(session: Session, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="nowhere"):
        await session.submit(ComputeTask(executable="true", cwd=tmp_path / "nowhere"))


async def test_executable_that_vanishes_before_its_launch_fails_alone(narrow_session: Session, tmp_path: Path) -> None:
    program, gate = tmp_path / "program", tmp_path / "gate"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    _, doomed, after = await narrow_session.submit(
        [
            ComputeTask(work.wait_for, args=(gate,)),
            ComputeTask(executable=program),
            ComputeTask(executable="true"),
        ]
    )

    program.unlink()
    gate.touch()
    await narrow_session.wait()

    assert (str(doomed.state), str(after.state)) == ("FAILED", "DONE")
    with pytest.raises(TaskFailed, match=r"program.* did not start: No such file") as caught:
        await doomed
    assert caught.value.cause == "launch"


async def test_folder_that_vanishes_before_the_launch_fails_the_task_alone(
    narrow_session: Session, tmp_path: Path
) -> None:
    folder, gate = tmp_path / "folder", tmp_path / "gate"
    folder.mkdir()
    _, program, function, after = await narrow_session.submit(
        [
            ComputeTask(work.wait_for, args=(gate,)),
            ComputeTask(executable="true", cwd=folder),
            ComputeTask(abs, args=(-1,), cwd=folder),
            ComputeTask(abs, args=(-1,)),
        ]
    )

    folder.rmdir()
    gate.touch()
    await narrow_session.wait()

    assert [str(task.state) for task in (program, function, after)] == ["FAILED", "FAILED", "DONE"]
    for task in (program, function):
        assert str(folder) in str(task.exception)


async def test_file_that_is_no_program_fails_its_task_alone(session: Session, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_bytes(b"\x7fELF, but not really")
    text.chmod(0o700)

    broken, fine = await session.submit([ComputeTask(executable=text), ComputeTask(executable="true")])
    await session.wait()

    assert (str(broken.state), str(fine.state)) == ("FAILED", "DONE")
    assert "Exec format error" in str(broken.exception)


async def test_never_more_executables_run_than_there_are_cores(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    script = f"echo +1 >> {ledger}; sleep 0.01; echo -1 >> {ledger}"  # a short run, so that they would overlap
    tasks = await session.submit(ComputeTask(executable="sh", arguments=["-c", script]) for _ in range(64))

    await session.wait()

    running, most = 0, 0
    for step in map(int, work.lines(ledger)):
        running += step
        most = max(most, running)
    assert session.counts == {"DONE": 64}
    assert (len(work.lines(ledger)), running) == (2 * len(tasks), 0)
    assert 1 <= most <= 2


async def test_descriptors_of_the_session_do_not_reach_executables(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="ls", arguments=["-l", "/proc/self/fd"]))

    await task

    opened = [line.split(" -> ")[1] for line in task.stdout.splitlines() if " -> " in line]
    assert len(opened) == 4  # its three, and the folder that it lists
    assert opened[0] == "/dev/null"
    assert Path(opened[3]).name == "fd"


async def test_launches_that_failed_and_those_that_did_not_leave_no_descriptor_open(
    narrow_session: Session, tmp_path: Path
) -> None:
    def count_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    text = tmp_path / "text"
    text.write_bytes(b"\x7fELF, but not really")
    text.chmod(0o700)
    [before] = await narrow_session.submit(ComputeTask(count_descriptors))
    await before

    failed = await narrow_session.submit(ComputeTask(executable=text) for _ in range(20))
    await narrow_session.submit(ComputeTask(executable="true", capture_stdio=n % 2 == 0) for n in range(20))
    await narrow_session.wait()
    [after] = await narrow_session.submit(ComputeTask(count_descriptors))
    await after

    assert {str(task.state) for task in failed} == {"FAILED"}
    assert after.return_value == before.return_value
