"""The lease: who may write a run. Other sessions are real processes; other hosts are made by another identity."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import BackendError, SpecError
from rhapsody.node.processes import started_at
from rhapsody.session import lease as lease_module
from rhapsody.session.lease import Holder, Lease, read_holder, read_stop_request, request_stop
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BEAT_S = 0.05

SESSION = """
import asyncio, sys
from pathlib import Path
from rhapsody.errors import BackendError
from rhapsody.session import lease

folder, identity, beat_s = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
if identity:
    lease.local_boot = lambda: identity

async def main():
    lost = lambda reason: print("lost", reason, flush=True)
    request = lambda drain: print("asked", drain, flush=True)
    print("up", flush=True)
    sys.stdin.readline()
    try:
        held = await lease.Lease.take(folder, lost, request, lambda line: None, beat_s=beat_s)
    except BackendError as exc:
        print("refused", exc, flush=True)
        return
    print("held", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    print("still" if held.held else "no longer", flush=True)
    held.release()

asyncio.run(main())
"""


class Other:
    """Another session, in a process of its own; it waits for a line before it takes the lease, and to release it."""

    def __init__(self, folder: Path, identity: str = "", beat_s: float = BEAT_S) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SESSION, str(folder), identity, str(beat_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def read(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def go(self) -> None:
        """Let it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def hold(self) -> Other:
        """Let it take the lease."""
        assert self.read() == "up\n"
        self.go()
        assert self.read() == "held\n"
        return self

    def kill(self) -> None:
        """End it without a chance to release."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """Leave nothing of it."""
        self.process.send_signal(signal.SIGCONT)
        self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[..., Other]]:
    """Return what starts other sessions of the same run."""
    started: list[Other] = []

    def start(identity: str = "", beat_s: float = BEAT_S) -> Other:
        started.append(Other(tmp_path, identity, beat_s))
        return started[-1]

    yield start
    for each in started:
        each.close()


class Heard:
    """Takes leases, and keeps what it was told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost: list[str] = []
        self.requests: list[bool] = []
        self.lines: list[str] = []
        self.taken: list[Lease] = []

    async def take(self, beat_s: float = BEAT_S) -> Lease:
        """Take the lease on the run."""
        taken = await Lease.take(self.folder, self.lost.append, self.requests.append, self.lines.append, beat_s=beat_s)
        self.taken.append(taken)
        return taken


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[Heard]:
    """Return what takes leases on a run."""
    heard = Heard(tmp_path)
    yield heard
    for taken in heard.taken:
        taken.release()


def leave(folder: Path, **changes: object) -> None:
    """Leave a file as of a session that holds the lease."""
    about = {
        "number": 1,
        "host": "node7",
        "boot": lease_module.local_boot(),
        "pid": os.getpid(),
        "started": started_at(os.getpid()),
        "token": "its",
        "since_ns": 1,
        "time_ns": time.time_ns(),
        "beat_s": BEAT_S,
    }
    (folder / "lease").mkdir()
    (folder / "lease" / "000001.json").write_text(json.dumps(about | changes))


def holder_of(folder: Path) -> Holder:
    holder = read_holder(folder)
    assert holder is not None
    return holder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "lease").iterdir())


class TestTaking:
    async def test_a_fresh_folder_is_taken_at_once(self, tmp_path: Path, heard: Heard) -> None:
        lease = await heard.take()
        holder = holder_of(tmp_path)

        assert lease.held
        assert (holder.number, holder.pid, holder.alive, holder.released) == (1, os.getpid(), True, False)
        assert holder.started == started_at(os.getpid())
        assert (tmp_path / "lease" / "000001.json").stat().st_mode & 0o777 == 0o600
        assert heard.lines == []

    async def test_a_folder_that_nobody_held_has_no_holder(self, tmp_path: Path) -> None:
        assert read_holder(tmp_path) is None

    async def test_a_released_lease_is_taken_at_once_under_the_next_number(self, tmp_path: Path, heard: Heard) -> None:
        first = await heard.take()
        first.release()
        released = holder_of(tmp_path)
        await heard.take()

        assert not first.held
        assert (released.number, released.released, released.alive) == (1, True, False)
        assert (holder_of(tmp_path).number, holder_of(tmp_path).alive) == (2, True)
        assert names(tmp_path) == ["000001.json", "000002.json"]

    async def test_a_living_session_is_named_and_not_disturbed(
        self, tmp_path: Path, heard: Heard, other: Callable[..., Other]
    ) -> None:
        living = other().hold()

        with pytest.raises(BackendError) as refused:
            await heard.take()
        living.go()

        assert f"held by process {living.process.pid} on " in str(refused.value)
        assert f"rhapsody status {tmp_path}" in str(refused.value)
        assert f"rhapsody cancel {tmp_path}" in str(refused.value)
        assert living.read() == "still\n"
        await eventually(lambda: names(tmp_path) == ["000001.json"], what="nothing else is there, between two beats")

    async def test_a_killed_session_is_followed_at_once(
        self, tmp_path: Path, heard: Heard, other: Callable[..., Other]
    ) -> None:
        other(beat_s=60.0).hold().kill()

        lease = await heard.take()

        assert lease.held
        assert holder_of(tmp_path).number == 2
        assert heard.lines == []

    async def test_a_killed_session_that_nobody_waited_for_is_dead(
        self, heard: Heard, other: Callable[..., Other]
    ) -> None:
        zombie = other(beat_s=60.0).hold()

        zombie.process.kill()
        await eventually(lambda: started_at(zombie.process.pid) is None)
        lease = await heard.take()

        assert lease.held

    async def test_another_process_under_the_same_pid_is_not_the_holder(self, tmp_path: Path, heard: Heard) -> None:
        leave(tmp_path, started=1)

        lease = await heard.take()

        assert lease.held

    async def test_a_folder_that_is_not_there_is_refused_with_its_name(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match=f"cannot take the lease {tmp_path}/gone/lease: No such file"):
            await Heard(tmp_path / "gone").take()


class TestOtherHosts:
    async def test_a_beat_of_an_unseen_holder_refuses(
        self, tmp_path: Path, heard: Heard, other: Callable[..., Other]
    ) -> None:
        unseen = other("another kernel", beat_s=0.3).hold()

        with pytest.raises(BackendError, match="it beats"):
            await heard.take()

        assert holder_of(tmp_path).alive is None
        assert f"held by process {unseen.process.pid} on " in heard.lines[0]
        assert "waiting for it until " in heard.lines[0]

    async def test_an_unseen_holder_that_is_silent_is_followed_after_six_beats(
        self, tmp_path: Path, heard: Heard
    ) -> None:
        leave(tmp_path, boot="another kernel", beat_s=0.1)
        began = time.monotonic()

        lease = await heard.take()

        assert lease.held
        assert time.monotonic() - began >= 0.6
        assert len(heard.lines) == 1

    async def test_an_unseen_holder_that_releases_is_followed_at_once(
        self, tmp_path: Path, heard: Heard, other: Callable[..., Other]
    ) -> None:
        unseen = other("another kernel", beat_s=2.0).hold()

        async with asyncio.TaskGroup() as group:
            taking = group.create_task(heard.take())
            await eventually(lambda: heard.lines)
            unseen.go()

        assert taking.result().held
        assert holder_of(tmp_path).number == 2

    async def test_waiting_blocks_nobody_and_leaves_nothing_when_it_is_canceled(
        self, tmp_path: Path, heard: Heard
    ) -> None:
        leave(tmp_path, boot="another kernel", beat_s=60.0)

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await heard.take()

        assert names(tmp_path) == ["000001.json"]
        assert heard.taken == []

    async def test_a_stopped_session_finds_itself_fenced_and_never_writes_again(
        self, tmp_path: Path, heard: Heard, other: Callable[..., Other]
    ) -> None:
        stopped = other("another kernel").hold()
        stopped.process.send_signal(signal.SIGSTOP)

        lease = await heard.take()
        stopped.process.send_signal(signal.SIGCONT)
        lost = stopped.read()
        content = (tmp_path / "lease" / "000001.json").read_bytes()
        stopped.go()

        assert lost.startswith(f"lost the run was taken over by process {os.getpid()} on ")
        assert stopped.read() == "no longer\n"
        assert stopped.process.wait() == 0
        assert (tmp_path / "lease" / "000001.json").read_bytes() == content
        assert lease.held
        assert heard.lost == []


@pytest.mark.parametrize("before", ["nobody", "dead", "unseen"])
def test_of_those_that_race_for_a_run_exactly_one_holds_it(
    before: str, tmp_path: Path, other: Callable[..., Other]
) -> None:
    if before != "nobody":
        leave(tmp_path, started=1, boot=lease_module.local_boot() if before == "dead" else "another kernel")
    racers = [other() for _ in range(8)]
    assert [racer.read() for racer in racers] == ["up\n"] * 8

    for racer in racers:
        racer.go()
    answers = [racer.read().split()[0] for racer in racers]

    assert sorted(answers) == ["held"] + ["refused"] * 7
    winner = racers[answers.index("held")]
    assert holder_of(tmp_path).pid == winner.process.pid
    winner.go()
    assert winner.read() == "still\n"


class TestBeating:
    async def test_it_beats_by_itself(self, tmp_path: Path, heard: Heard) -> None:
        await heard.take()

        await eventually(lambda: holder_of(tmp_path).beat >= 2)

        assert holder_of(tmp_path).beat_age_s < 5
        assert heard.lost == []

    async def test_a_higher_number_ends_it_once(self, tmp_path: Path, heard: Heard) -> None:
        lease = await heard.take(beat_s=60.0)
        (tmp_path / "lease" / "000002.json").write_bytes((tmp_path / "lease" / "000001.json").read_bytes())

        lease.beat()
        content = (tmp_path / "lease" / "000001.json").read_bytes()
        lease.release()

        assert not lease.held
        assert len(heard.lost) == 1
        assert "was taken over" in heard.lost[0]
        assert (tmp_path / "lease" / "000001.json").read_bytes() == content

    async def test_an_error_of_the_file_system_is_told_once_and_tried_again(
        self, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease = await heard.take(beat_s=60.0)
        write = lease_module._write

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(lease_module, "_write", full)
        lease.beat()
        lease.beat()
        monkeypatch.setattr(lease_module, "_write", write)
        lease.beat()

        (line,) = heard.lines
        assert line.startswith(f"cannot write {tmp_path}/lease: No space left on device; trying again every 60 s:")
        assert line.endswith(" after 360 s others may take the run over")
        assert lease.held
        assert holder_of(tmp_path).beat == 3

    async def test_a_run_folder_that_vanished_does_not_keep_it_from_being_released(
        self, tmp_path: Path, heard: Heard
    ) -> None:
        lease = await heard.take(beat_s=60.0)
        (tmp_path / "lease").rename(tmp_path / "elsewhere")

        lease.beat()
        lease.release()

        assert not lease.held
        assert [line.partition(":")[0] for line in heard.lines] == [
            f"cannot write {tmp_path}/lease",
            "the lease on the run is not given back",
        ]


class TestRequests:
    async def test_a_request_to_drain_and_then_one_to_stop_are_heard_once_each(
        self, tmp_path: Path, heard: Heard
    ) -> None:
        lease = await heard.take(beat_s=60.0)

        request_stop(tmp_path, holder_of(tmp_path), drain=True)
        lease.beat()
        lease.beat()
        request_stop(tmp_path, holder_of(tmp_path), drain=False)
        lease.beat()
        request_stop(tmp_path, holder_of(tmp_path), drain=True)
        lease.beat()

        assert heard.requests == [True, False]

    async def test_a_request_reaches_a_session_in_another_process(
        self, tmp_path: Path, other: Callable[..., Other]
    ) -> None:
        asked = other().hold()

        request_stop(tmp_path, holder_of(tmp_path), drain=True)

        assert asked.read() == "asked True\n"

    async def test_a_request_to_an_earlier_holder_is_not_taken_for_the_next(self, tmp_path: Path, heard: Heard) -> None:
        first = await heard.take(beat_s=60.0)
        request_stop(tmp_path, holder_of(tmp_path), drain=False)
        first.release()

        second = await heard.take(beat_s=60.0)
        second.beat()

        assert heard.requests == []
        assert read_stop_request(tmp_path, holder_of(tmp_path)) is None

    async def test_the_request_goes_with_the_session_that_heard_it(self, tmp_path: Path, heard: Heard) -> None:
        lease = await heard.take(beat_s=60.0)
        request_stop(tmp_path, holder_of(tmp_path), drain=False)
        lease.beat()

        lease.release()

        assert names(tmp_path) == ["000001.json"]


class TestFileSystems:
    async def test_where_there_are_no_hard_links_the_number_is_made_exclusively(
        self, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "link", refuse)
        lease = await heard.take()
        private = tmp_path / "lease" / "mine.part"
        private.write_bytes(b"mine")

        assert lease.held
        assert holder_of(tmp_path).alive
        assert not lease_module._claim(private, tmp_path / "lease" / "000001.json")

    async def test_a_link_whose_answer_was_lost_counts_as_made(
        self, heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link

        def answer_is_lost(source: Path, target: Path) -> None:
            link(source, target)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

        monkeypatch.setattr(os, "link", answer_is_lost)
        lease = await heard.take()

        assert lease.held

    async def test_a_half_written_file_is_waited_for(
        self, tmp_path: Path, heard: Heard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease_module, "STALE_S", 0.1)
        monkeypatch.setattr(lease_module, "BEAT_S", 0.05)
        (tmp_path / "lease").mkdir()
        (tmp_path / "lease" / "000001.json").write_text('{"number": 1, "ho')

        lease = await heard.take()

        assert lease.held
        assert holder_of(tmp_path).number == 2
        assert "a session that did not say which" in heard.lines[0]
