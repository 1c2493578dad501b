"""What tasks print: tails, whole files, and odd output."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from rhapsody import ComputeTask, TaskFailed

if TYPE_CHECKING:
    from rhapsody import Session

TAIL_BYTES = 64 << 10


def speak(text: str) -> None:
    print(text)  # noqa: T201 - what is tested
    print(text.upper(), file=sys.stderr)  # noqa: T201


async def test_each_function_has_its_own_output(session: Session) -> None:
    tasks = await session.submit(ComputeTask(speak, args=(f"task {n}",)) for n in range(50))

    await session.wait()

    assert [task.stdout for task in tasks] == [f"task {n}\n" for n in range(50)]
    assert [task.stderr for task in tasks] == [f"TASK {n}\n" for n in range(50)]


async def test_function_that_prints_nothing_has_no_output(narrow_session: Session) -> None:
    _, silent = await narrow_session.submit([ComputeTask(speak, args=("loud",)), ComputeTask(abs, args=(-1,))])

    await narrow_session.wait()

    assert (silent.stdout, silent.stderr, silent.exit_code) == ("", "", None)


async def test_output_of_a_failing_function_is_kept(session: Session) -> None:
    def complain() -> None:
        speak("about to fail")
        raise ValueError("as I said")

    [task] = await session.submit(ComputeTask(complain))

    with pytest.raises(TaskFailed, match="as I said"):
        await task

    assert (task.stdout, task.stderr) == ("about to fail\n", "ABOUT TO FAIL\n")


async def test_tail_of_a_talkative_function_is_kept(session: Session) -> None:
    def talk() -> None:
        for number in range(1 << 17):
            print(f"{number:07d}")  # noqa: T201 - what is tested

    [task] = await session.submit(ComputeTask(talk))
    await task

    assert len(task.stdout) == TAIL_BYTES
    assert task.stdout.endswith(f"{(1 << 17) - 1:07d}\n")


async def test_function_that_closes_its_output_harms_no_other(narrow_session: Session) -> None:
    def close() -> None:
        print("last words")  # noqa: T201 - what is tested
        sys.stdout.close()
        sys.stderr.close()

    closing, after = await narrow_session.submit([ComputeTask(close), ComputeTask(speak, args=("still here",))])
    await narrow_session.wait()

    assert (str(closing.state), closing.stdout) == ("DONE", "last words\n")
    assert (str(after.state), after.stdout) == ("DONE", "still here\n")


async def test_logging_of_a_function_is_its_standard_error(session: Session) -> None:
    def log() -> None:
        logging.getLogger("science").warning("the model is warm")

    [task] = await session.submit(ComputeTask(log))
    await task

    assert task.stderr == "the model is warm\n"


async def test_whole_output_of_a_function_is_captured_below_python_too(session: Session) -> None:
    def talk() -> None:
        print("from Python", flush=True)  # noqa: T201 - what is tested
        os.write(1, b"from below\n")
        subprocess.run(["sh", "-c", "echo from a child; echo oops >&2"], check=True)  # noqa: S607

    [task] = await session.submit(ComputeTask(talk, capture_stdio=True, uid="talker"))
    await task

    logs = session.run_dir / "logs"
    assert (logs / "talker.1.out").read_text() == "from Python\nfrom below\nfrom a child\n"
    assert (logs / "talker.1.err").read_text() == "oops\n"
    assert (task.stdout, task.stderr) == ("from Python\nfrom below\nfrom a child\n", "oops\n")


async def test_output_after_a_captured_task_is_a_tail_again(narrow_session: Session) -> None:
    _, after = await narrow_session.submit(
        [ComputeTask(speak, args=("captured",), capture_stdio=True), ComputeTask(speak, args=("kept",))]
    )

    await narrow_session.wait()

    assert (after.stdout, after.stderr) == ("kept\n", "KEPT\n")


async def test_whole_output_of_an_executable_is_captured(session: Session) -> None:
    script = "yes 0123456 | head -n 20000; echo done >&2"
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", script], capture_stdio=True, uid="yes"))

    await task

    assert (session.run_dir / "logs" / "yes.1.out").read_text() == "0123456\n" * 20_000
    assert (session.run_dir / "logs" / "yes.1.err").read_text() == "done\n"
    assert (task.stdout, task.stderr) == (("0123456\n" * 20_000)[-TAIL_BYTES:], "done\n")


async def test_binary_output_without_a_newline_is_shown_as_far_as_it_can_be(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="printf", arguments=[r"ok\377\000end"]))

    await task

    assert task.stdout == "ok\ufffd\0end"


async def test_executable_that_closes_its_output_early_is_followed_to_its_end(session: Session) -> None:
    script = "echo before; exec >&- 2>&-; sleep 0.05; exit 7"
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", script]))

    with pytest.raises(TaskFailed, match="code 7"):
        await task

    assert (task.stdout, task.exit_code) == ("before\n", 7)


async def test_ten_megabytes_of_output_cost_little(session: Session) -> None:
    before_s = time.process_time()
    [task] = await session.submit(
        ComputeTask(executable="sh", arguments=["-c", "head -c 10000000 /dev/zero | tr '\\0' x"])
    )

    await task

    assert task.stdout == "x" * TAIL_BYTES
    assert time.process_time() - before_s < 1.0


async def test_child_that_keeps_the_output_open_does_not_keep_the_task(session: Session) -> None:
    [task] = await session.submit(ComputeTask(executable="sh", arguments=["-c", "echo started; sleep 600 &"]))

    await task

    assert task.stdout == "started\n"
