"""The executor of a node on which the session is not: a pool of workers that is fed from afar.

It is started through an `ssh`, whose streams are its line to the session; what it is told first is a `Post`. When the
line breaks off unannounced, the session is gone or has given this node up: then it ends as a session would that is
killed, and what starts its workers ends them and writes down what they have noted.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections import deque
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rhapsody.backends import relay, salvage
from rhapsody.backends.member import Chunk, Lane
from rhapsody.backends.outflow import Outflow
from rhapsody.backends.pool import Pool
from rhapsody.backends.pool_settings import PoolSettings
from rhapsody.backends.starter import GuardianStarter
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.abc import Report
    from rhapsody.backends.member import Extent
    from rhapsody.backends.starter import KeeperStarter

    MakeStarter = Callable[[relay.Post, Path, Callable[[tuple[Any, ...]], None]], KeeperStarter]

_READ_BYTES = 1 << 18
_PIPE_BYTES = 1 << 18
"""So much fits into each pipe: more than a usual message, which so is written and read at once."""


class Executor:
    """Serves the session at the other end of stdin and stdout.

    Args:
        make_starter: Given the post, the file for what workers have noted, and what tells the session of this node
            while it is being started, returns what starts workers.
    """

    def __init__(self, make_starter: MakeStarter) -> None:
        self._make_starter = make_starter
        self._loop = asyncio.get_running_loop()
        self._line = Outflow(_take_line(), lambda: _vanish("the line to the session broke off"))
        self._inbox = relay.Inbox()
        self._messages: list[tuple[Any, ...]] = []
        self._reports: list[Report] = []
        self._flushing = False
        self._sent = 0
        """Messages with reports that were sent."""
        self._unsettled: deque[tuple[int, Extent]] = deque()
        """For each of those that the session's journal may not have yet, how far it goes."""
        self._pool: Pool | None = None
        self._record: Path | None = None
        self._starting: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._orders: dict[str, Callable[..., None]] = {
            "clock": lambda asked_ns: self._say("clock", asked_ns, time.monotonic_ns()),
            "end": self._end,
            "heard": self._settle,
            "start": self._begin,
            "feed": self._feed,
            **{name: partial(self._pass_on, name) for name in ("define", "forget", "cancel", "warn")},
        }

    async def serve(self) -> None:
        """Do as told, until told to end."""
        self._loop.add_reader(0, self._read)
        beating = self._loop.create_task(self._beat())
        try:
            await self._ended
        finally:
            beating.cancel()
            if self._pool is not None:
                await self._pool.aclose()
            if self._record is not None:
                self._record.unlink(missing_ok=True)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(relay.BEAT_S)
            self._say("beat")

    def _read(self) -> None:
        try:
            data = os.read(0, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(0)
            if not self._ended.done():
                _vanish("the line to the session broke off")
        for order, *rest in self._inbox.add(data):
            self._orders[order](*rest)

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)

    def _begin(self, *post: Any) -> None:  # noqa: ANN401 - as `Post` has it
        self._starting = self._loop.create_task(self._start(relay.Post(*post)))

    def _feed(self, lane: tuple[Any, ...], *chunk: Any) -> None:  # noqa: ANN401 - as `Chunk.arrived` has it
        if self._pool is not None:
            self._pool.feed(Lane(*lane), Chunk.arrived(*chunk))

    def _pass_on(self, order: str, *rest: Any) -> None:  # noqa: ANN401 - as the pool has it
        if self._pool is not None:
            getattr(self._pool, order)(*rest)

    async def _start(self, post: relay.Post) -> None:
        """Bring the pool up; whatever goes wrong is the session's to know."""
        try:
            folder = await self._open(post)
        except Exception as exc:  # noqa: BLE001 - as above
            text = str(exc) if isinstance(exc, BackendError | OSError) else f"{type(exc).__name__}: {exc}"
            self._say("failed", text)
        else:
            self._say("up", str(folder))

    async def _open(self, post: relay.Post) -> Path:
        os.environ.update(post.variables)
        try:
            os.chdir(post.cwd)
        except OSError as exc:
            raise BackendError(
                f"the session's working folder {post.cwd} cannot be used there: {exc.strerror}; start the session in a"
                " folder that all nodes see"
            ) from exc
        run_dir, logs = Path(post.run_dir), Path(post.logs)
        settings = PoolSettings(
            node=post.node,
            log=logs / f"workers-{post.node}.log",
            clock_offset_ns=0,
            env=post.env,
            cwd=post.cwd,
            sys_path=post.sys_path,
            campaign_file=post.campaign_file,
            decoder=relay.KEEPING,
            journals_at_once=False,
        )
        left = salvage.left_path(run_dir, post.session, post.node)
        starter = self._make_starter(post, left, lambda told: self._say("told", told))
        pool = Pool(starter, settings, self._hear, self._lose)
        await pool.start()
        self._pool = pool
        self._record = salvage.record_path(run_dir, post.session, post.rank)
        salvage.write_record(self._record, salvage.Deployed.here(post.node, starter.keeper, pool.folder, starter.mark))
        return pool.folder

    def _hear(self, reports: list[Report]) -> None:
        self._reports += reports
        self._flush_soon()

    def _lose(self, reason: str) -> None:
        self._say("lost", reason)

    def _settle(self, heard: int) -> None:
        """Learn that the session's journal has what these first messages said."""
        extent = None
        while self._unsettled and self._unsettled[0][0] <= heard:
            extent = self._unsettled.popleft()[1]
        if extent is not None and self._pool is not None:
            self._pool.settle(extent)

    # Sending

    def _say(self, *message: Any) -> None:  # noqa: ANN401 - as the kind of message has it
        self._messages.append(message)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._reports and self._pool is not None:
            self._sent += 1
            self._unsettled.append((self._sent, self._pool.read()))
            self._messages.insert(0, ("reports", self._sent, relay.pack_reports(self._reports)))
            self._reports = []
        if self._messages:
            self._line.send(relay.pack(self._messages))
            self._messages = []


def _take_line() -> int:
    """Return a descriptor for stdout as it was; what is printed from now on goes to stderr."""
    line = os.dup(1)
    os.dup2(2, 1)
    for descriptor in (0, line):
        os.set_blocking(descriptor, False)
        with contextlib.suppress(OSError):  # they are no pipes, or this user has too many
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return line


def _vanish(why: str) -> NoReturn:
    """End at once, as if killed: whoever keeps the workers then does what has to be done."""
    sys.stderr.write(f"executor: {why}\n")
    sys.stderr.flush()
    os._exit(1)


async def _serve(make_starter: MakeStarter) -> None:
    await Executor(make_starter).serve()


def serve(make_starter: MakeStarter) -> None:
    """Be an executor; see `Executor`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the session decides
    asyncio.run(_serve(make_starter))


def main() -> None:
    """Be the executor of the local runtime."""
    serve(lambda _post, left, _tell: GuardianStarter(left))
