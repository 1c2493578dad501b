"""The Dragon backend beyond the contract: Dragon's own objects, and whatever of it is killed or does not start."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import BackendError, ComputeTask, Session, State
from rhapsody.backends.dragon.backend import DragonBackend
from rhapsody.backends.dragon.frontend import PREFIX
from rhapsody.backends.shared_memory import FOLDER, Segment, segments_of
from tests.eventually import eventually
from tests.leftovers import Process, processes
from tests.requirements import needs_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.integration.command import Command
    from tests.integration.conftest import Write

pytestmark = [pytest.mark.dragon, needs_module("dragon", install="rhapsody-hpc[dragon]")]
ROOT = Path(__file__).resolve().parents[2]
FRONT_END, HEAD, WARDEN = b"launch_selector", b"rhapsody-head", b"rhapsody-warden"


def touch_and_wait(folder: Path, number: int) -> int:
    """Say that the task runs, and return when it may end."""
    import time  # noqa: PLC0415 - the function travels by value

    (folder / f"runs.{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return number * 10


def exchange(value: int) -> tuple[int, int]:
    """Pass a value through a queue and a dictionary of Dragon."""
    from dragon.data.ddict.ddict import DDict
    from dragon.native.queue import Queue

    queue: Any = Queue()
    queue.put(value)
    shared: Any = DDict(1, 1, 64 << 20)
    shared["value"] = value + 1
    found = int(queue.get()), int(shared["value"])
    shared.destroy()
    return found


def listen_at_queue(folder: Path) -> tuple[str, int]:
    """Make a queue of Dragon, say where it is, and return what comes out of it, and from this process."""
    from dragon.native.queue import Queue

    queue: Any = Queue()
    (folder / "part").write_text(queue.serialize())
    (folder / "part").rename(folder / "queue")
    return str(queue.get()), os.getpid()


def speak_at_queue(folder: Path) -> int:
    """Put something into the queue that another process makes; return from which one."""
    import time  # noqa: PLC0415 - the function travels by value

    from dragon.native.queue import Queue

    while not (folder / "queue").exists():
        time.sleep(0.005)
    Queue.attach((folder / "queue").read_text()).put("hello")
    return os.getpid()


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Process]]:
    """Return a question: which processes that were started since are alive?"""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("DRAGON_TEST_MARK", mark)
    wanted = f"DRAGON_TEST_MARK={mark}".encode()
    return lambda: [each for each in processes().values() if wanted in each.environ.split(b"\0")]


@pytest.fixture
def find(ours: Callable[[], list[Process]]) -> Callable[[bytes], int]:
    """Return what finds the process whose program or title holds a word."""

    def find(word: bytes) -> int:
        words = {process.pid: process.command.split(b"\0") for process in ours()}
        (found,) = [pid for pid, those in words.items() if any(word in each for each in those[2:4])]
        return found

    return find


@pytest.fixture
def segments(find: Callable[[bytes], int]) -> Callable[[], set[Segment]]:
    """Return a question: which files of the Dragon that runs are in /dev/shm?"""
    return lambda: segments_of([find(FRONT_END)], PREFIX)


def still_there(segments: set[Segment]) -> set[Segment]:
    return {each for each in segments if (FOLDER / each.name).exists()}


@pytest.fixture
async def session(tmp_path: Path, ours: object) -> AsyncIterator[Session]:
    """Return an open session over Dragon."""
    opened = await Session(backend="dragon", cores=2, runs=tmp_path / "runs", notify=lambda _line: None)
    try:
        yield opened
    finally:
        await opened.aclose()


async def hold(session: Session, folder: Path) -> list[ComputeTask]:
    """Have two tasks run, and others wait."""
    tasks = [ComputeTask(touch_and_wait, args=(folder, number)) for number in range(2)]
    await session.submit(tasks)
    await eventually(lambda: all((folder / f"runs.{n}").exists() for n in range(2)), within_s=20, what="both run")
    rest = [ComputeTask(touch_and_wait, args=(folder, number)) for number in range(2, 5)]
    await session.submit(rest)
    return tasks + rest


async def test_command_runs_functions_and_executables_and_leaves_nothing(
    command: Command, write: Write, ours: Callable[[], list[Process]]
) -> None:
    write(
        "import os\n"
        "from rhapsody import ComputeTask\n"
        "async def campaign(session, args):\n"
        "    seen = ComputeTask(lambda: os.environ['DRAGON_MY_PUID'])\n"
        "    hello = ComputeTask(executable='echo', arguments=[seen])\n"
        "    await session.submit([seen, hello])\n"
        "    print('said', (await hello).stdout)\n"
    )

    ended = await command.run("study.py", "--backend", "dragon", "--cores", "2")

    assert ended.code == 0, ended.err
    said = ended.out.split("said ")[1].split()[0]
    assert said.isdigit()
    assert ours() == []


async def test_tasks_use_dragons_queues_and_dictionaries(session: Session) -> None:
    [task] = await session.submit(ComputeTask(exchange, args=(7,)))

    await task

    assert task.return_value == (7, 8)


async def test_tasks_of_two_workers_meet_at_a_queue_of_dragon(session: Session, tmp_path: Path) -> None:
    listener, speaker = await session.submit(
        [ComputeTask(listen_at_queue, args=(tmp_path,)), ComputeTask(speak_at_queue, args=(tmp_path,))]
    )

    await listener
    await speaker

    heard, pid = listener.return_value
    assert heard == "hello"
    assert pid != speaker.return_value


@pytest.mark.parametrize("victim", [FRONT_END, HEAD, WARDEN], ids=["front end", "head program", "warden"])
async def test_killed_part_of_dragon_settles_every_task_is_said_and_leaves_nothing(
    session: Session,
    tmp_path: Path,
    ours: Callable[[], list[Process]],
    find: Callable[[bytes], int],
    segments: Callable[[], set[Segment]],
    victim: bytes,
) -> None:
    tasks = await hold(session, tmp_path)
    held = segments()

    os.kill(find(victim), signal.SIGKILL)
    settled = await session.wait(timeout_s=15)

    assert settled
    assert {task.state for task in tasks[:2]} == {State.UNKNOWN}
    assert State.DONE not in {task.state for task in tasks}
    await eventually(lambda: not ours(), within_s=5, what="nothing of Dragon lives")
    assert held
    await eventually(lambda: not still_there(held), within_s=5, what="its shared memory is free")


async def test_ctrl_c_reaches_the_campaign_and_not_dragon(
    command: Command, write: Write, tmp_path: Path, ours: Callable[[], list[Process]]
) -> None:
    write(
        "from rhapsody import ComputeTask\n"
        "async def campaign(session, args):\n"
        "    text = 'touch up; while [ ! -e go ]; do sleep 0.02; done; echo ended'\n"
        "    task = ComputeTask(executable='sh', arguments=['-c', text])\n"
        "    await session.submit(task)\n"
        "    print('said', (await task).stdout)\n"
    )
    running = command.start("study.py", "--backend", "dragon", "--cores", "1")
    await eventually((tmp_path / "up").exists, within_s=60, what="the task runs")

    running.interrupt()
    await eventually(lambda: "Ctrl-C" in running.err, within_s=10, what="it was heard")
    (tmp_path / "go").touch()
    ended = await running.end()

    assert "said ended" in ended.out, ended.err
    assert ours() == []


async def test_dragon_that_does_not_answer_any_more_is_ended(
    tmp_path: Path, ours: Callable[[], list[Process]], find: Callable[[bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _customize(
        tmp_path,
        monkeypatch,
        "if 'rhapsody-warden' in sys.orig_argv:\n"
        "    import rhapsody.backends.dragon.warden as warden\n"
        "    warden.BEAT_S, warden.BEAT_LIMIT_S = 0.2, 2.0\n",
    )
    said: list[str] = []
    session = await Session(backend="dragon", cores=2, runs=tmp_path / "runs", notify=said.append)
    try:
        await hold(session, tmp_path)

        os.kill(find(HEAD), signal.SIGSTOP)
        settled = await session.wait(timeout_s=20)

        assert settled
        assert any("Dragon is gone: it did not answer for" in line for line in said)
        await eventually(lambda: not ours(), within_s=5, what="nothing of Dragon lives")
    finally:
        await session.aclose()


async def test_another_dragon_on_the_node_does_not_notice(
    session: Session, tmp_path: Path, segments: Callable[[], set[Segment]]
) -> None:
    held = segments()
    async with Session(backend="dragon", cores=2, runs=tmp_path / "others", notify=lambda _line: None) as other:
        await other.submit(ComputeTask(exchange, args=(1,)))

    [task] = await session.submit(ComputeTask(exchange, args=(7,)))
    await task

    assert task.return_value == (7, 8)
    assert still_there(held) == held


SCRIPT = """
import asyncio, sys
from pathlib import Path
from rhapsody import Session
from tests.integration.test_dragon import hold

async def main(folder):
    async with Session(backend="dragon", cores=2, runs=folder / "runs") as session:
        (folder / "run_dir").write_text(str(session.run_dir))
        tasks = await hold(session, folder)
        (folder / "holds").touch()
        await session.wait()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture
async def victim(tmp_path: Path, ours: object) -> AsyncIterator[subprocess.Popen[bytes]]:
    """Return a process with a session whose tasks run."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT) as process:  # noqa: ASYNC220 - a moment
        try:
            await eventually((tmp_path / "holds").exists, within_s=40, what="its tasks run")
            yield process
        finally:
            process.kill()


async def test_killed_session_leaves_what_its_workers_had_finished_and_nothing_else(
    victim: subprocess.Popen[bytes],
    tmp_path: Path,
    ours: Callable[[], list[Process]],
    segments: Callable[[], set[Segment]],
) -> None:
    held = segments()
    victim.send_signal(signal.SIGSTOP)  # it hears of nothing any more
    (tmp_path / "go").touch()
    victim.kill()
    victim.wait()

    aftermath = await DragonBackend().recover(Path((tmp_path / "run_dir").read_text()), 1)

    assert aftermath.complete
    assert {(report.number, report.state, report.value) for report in aftermath.reports} == {
        (1, State.DONE, 0),
        (2, State.DONE, 10),
    }
    assert ours() == []
    assert still_there(held) == set()


async def test_session_and_warden_killed_at_once_are_cleared_away_by_who_goes_on(
    victim: subprocess.Popen[bytes],
    tmp_path: Path,
    ours: Callable[[], list[Process]],
    find: Callable[[bytes], int],
    segments: Callable[[], set[Segment]],
) -> None:
    held = segments()
    os.kill(find(WARDEN), signal.SIGKILL)
    victim.kill()
    victim.wait()

    aftermath = await DragonBackend().recover(Path((tmp_path / "run_dir").read_text()), 1)

    assert not aftermath.complete
    await eventually(lambda: not ours(), within_s=5, what="nothing of it lives")
    assert still_there(held) == set()


def _customize(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have every Python that is started from now on run some code first."""
    place = folder / "customize"
    place.mkdir()
    (place / "sitecustomize.py").write_text(f"import os, sys, time\nfrom pathlib import Path\n{code}")
    monkeypatch.setenv("PYTHONPATH", str(place))


async def test_start_that_fails_is_tried_again_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _customize(
        tmp_path,
        monkeypatch,
        "first = Path(__file__).with_name('first')\n"
        "if any('launch_selector' in word for word in sys.orig_argv) and not first.exists():\n"
        "    first.touch()\n"
        "    os._exit(3)\n",
    )

    async with Session(backend="dragon", cores=1, runs=tmp_path / "runs", notify=lambda _line: None) as session:
        [task] = await session.submit(ComputeTask(abs, args=(-1,)))
        await task

    assert task.return_value == 1
    assert (tmp_path / "customize" / "first").exists()


async def test_start_that_hangs_is_given_up_with_the_last_that_dragon_wrote(
    tmp_path: Path, ours: Callable[[], list[Process]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _customize(
        tmp_path,
        monkeypatch,
        "if 'rhapsody-warden' in sys.orig_argv:\n"
        "    import rhapsody.backends.dragon.warden as warden\n"
        "    warden.START_LIMIT_S = 0.5\n"
        "if any('launch_selector' in word for word in sys.orig_argv):\n"
        "    print('waiting for the moon', flush=True)\n"
        "    time.sleep(600)\n",
    )

    with pytest.raises(BackendError) as caught:
        await Session(backend="dragon", cores=1, runs=tmp_path / "runs", notify=lambda _line: None)

    text = str(caught.value)
    assert "Dragon did not start: it was not up within 0.5 s" in text
    assert "waiting for the moon" in text
    assert "tried 2 times" in text
    assert ours() == []


async def test_warden_that_hangs_at_the_end_leaves_nothing(
    session: Session,
    ours: Callable[[], list[Process]],
    find: Callable[[bytes], int],
    segments: Callable[[], set[Segment]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rhapsody.backends.starter.END_LIMIT_S", 0.5)
    held = segments()
    os.kill(find(WARDEN), signal.SIGSTOP)

    await session.aclose()

    await eventually(lambda: not ours(), within_s=5, what="nothing of Dragon lives")
    assert still_there(held) == set()


async def test_session_given_up_while_dragon_comes_up_leaves_nothing(
    tmp_path: Path, ours: Callable[[], list[Process]]
) -> None:
    async def open_one() -> Session:
        return await Session(backend="dragon", cores=1, runs=tmp_path / "runs", notify=lambda _line: None)

    async with asyncio.TaskGroup() as group:
        opening = group.create_task(open_one())
        await eventually(lambda: any(FRONT_END in each.command for each in ours()), within_s=20, what="Dragon starts")
        opening.cancel()

    assert opening.cancelled()
    assert ours() == []


async def test_workers_that_die_before_they_connect_fail_the_task_with_their_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _customize(tmp_path, monkeypatch, "if 'rhapsody-worker' in sys.orig_argv:\n    os._exit(5)\n")

    async with Session(backend="dragon", cores=1, runs=tmp_path / "runs", notify=lambda _line: None) as session:
        [task] = await session.submit(ComputeTask(abs, args=(-1,)))
        await session.wait()

    assert task.state is State.FAILED
    assert "3 worker processes in a row" in str(task.exception)
    assert "exited with code 5 before they connected" in str(task.exception)


async def test_workers_of_many_cores_come_up_and_each_works(tmp_path: Path, ours: object) -> None:
    async with Session(backend="dragon", cores=16, runs=tmp_path / "runs", notify=lambda _line: None) as session:
        tasks = [ComputeTask(touch_and_wait, args=(tmp_path, number)) for number in range(16)]
        await session.submit(tasks)
        await eventually(
            lambda: all((tmp_path / f"runs.{number}").exists() for number in range(16)), within_s=40, what="all run"
        )
        (tmp_path / "go").touch()
        await session.wait()

    assert [task.return_value for task in tasks] == [number * 10 for number in range(16)]
