"""The pool of another node, as the session sees it: orders go to its executor, reports come back.

A node is lost when the line to its executor breaks off, or nothing comes from there any more. What ran there then ends
UNKNOWN: nobody saw how it ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends import bootstrap, relay
from rhapsody.backends.remote_line import Clock, Line
from rhapsody.backends.remote_tasks import OpenTasks
from rhapsody.backends.starter import exited
from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rhapsody.abc import Report
    from rhapsody.backends.member import Chunk, Lane

START_LIMIT_S = 300.0
"""Longer than any runtime takes to say why it does not come up."""
SILENT_BEATS = 8
"""A node of which nothing was heard for so many beats is lost; beats that this process slept through do not count."""
_CLOCK_QUESTIONS = 5
_CLOCK_EVERY_BEATS = 60
_LAST_WORDS = 2000


class RemotePool:
    """The workers of another node; the same to its user as `rhapsody.backends.pool.Pool`.

    Args:
        module: Whose `main` the executor runs.
        post: What the executor is told.
        offset_ns: Added to `time.monotonic_ns()` of this node it gives the session's clock.
        hear: Called with reports.
        on_lost: Called with the reason once the node is lost; all open tasks were reported on before.
        on_told: Called with what the runtime there tells of the node while it is being started.
    """

    def __init__(
        self,
        module: str,
        post: relay.Post,
        offset_ns: int,
        hear: Callable[[list[Report]], None],
        on_lost: Callable[[str], None],
        on_told: Callable[[tuple[Any, ...]], None],
    ) -> None:
        self._module = module
        self._post = post
        self._session_offset_ns = offset_ns
        self._hear = hear
        self._on_lost = on_lost
        self._functions: dict[int, bytes] = {}
        self._known: set[int] = set()
        """Functions that the executor has."""
        self._open = OpenTasks()
        self._messages: list[tuple[Any, ...]] = []
        self._flushing = False
        self._heard = 0
        """Number of the last message with reports."""
        self._clock = Clock()
        self._questions = 0
        self._silent_beats = 0
        self._beats = 0
        self._folder = Path()
        self._hearing: dict[str, Callable[..., None]] = {
            "reports": self._take_reports,
            "clock": self._take_clock,
            "told": on_told,
            "up": self._come_up,
            "failed": self._fail,
            "lost": self._give_up,
        }
        self._up: asyncio.Future[None]
        self._process: subprocess.Popen[bytes] | None = None
        self._line: Line | None = None
        self._beating: asyncio.TimerHandle | None = None

    @property
    def offset_ns(self) -> int:
        """Added to the node's `time.monotonic_ns()` it gives the session's clock."""
        return self._session_offset_ns + self._clock.offset_ns

    @property
    def folder(self) -> Path:
        """Private folder of the pool, on the other node's own disk."""
        return self._folder

    @property
    def _log(self) -> str:
        return f"{self._post.logs}/executor-{self._post.node}.log"

    async def start(self) -> None:
        """Start the executor; see `Pool.start`.

        Raises:
            BackendError: It did not come up in time.
        """
        self._loop = asyncio.get_running_loop()
        self._up = self._loop.create_future()
        command = shlex.join(bootstrap.command("rhapsody-executor", self._module))
        try:
            with open(self._log, "ab") as log:  # noqa: ASYNC230, PTH123 - a millisecond
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a millisecond; asyncio's own takes longer
                    ["ssh", "-oBatchMode=yes", self._post.node, f"exec {command}"],  # noqa: S607 - the first on PATH
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    process_group=0,  # Ctrl-C is the session's
                )
        except OSError as exc:
            raise BackendError(
                f"the executor of {self._post.node} did not start: {exc}; on several nodes a session has to be started"
                " by rhapsody-node, or there must be an ssh that asks nothing"
            ) from exc
        self._line = Line(self._process, self._take, self._lose)
        self._say("start", *self._post)
        try:
            await asyncio.wait_for(self._up, START_LIMIT_S)
        except TimeoutError as exc:
            await self._kill()
            raise BackendError(
                f"the executor of {self._post.node} was not up within {START_LIMIT_S:g} s; {self._last_words()}"
            ) from exc
        except BaseException:  # cancellation too: no process may stay
            await self._kill()
            raise
        self._beating = self._loop.call_later(relay.BEAT_S, self._beat)

    def define(self, function_id: int, blob: bytes) -> None:
        """Make a function known; see `Pool.define`."""
        self._functions[function_id] = blob

    def forget(self, function_id: int) -> None:
        """Drop a function that no later chunk uses; see `Pool.forget`."""
        del self._functions[function_id]
        if function_id in self._known:
            self._known.discard(function_id)
            self._say("forget", function_id)

    def feed(self, lane: Lane, chunk: Chunk) -> None:
        """Hand a chunk to the worker of a lane; see `Pool.feed`."""
        self._open.add(chunk)
        if self._line is None:  # it is lost, and the scheduler does not know yet
            self._loop.call_soon(self._give_back)
            return
        for function_id in set(chunk.functions) - self._known:
            if function_id >= 0:
                self._known.add(function_id)
                self._say("define", function_id, self._functions[function_id])
        if self._heard:
            self._say("heard", self._heard)  # and the journal has it: else nothing would be launched
        self._say("feed", tuple(lane), *chunk.travelling())

    def cancel(self, attempts: Collection[tuple[int, int]]) -> None:
        """Stop attempts; see `Pool.cancel`."""
        if here := [attempt for attempt in attempts if attempt in self._open]:
            self._say("cancel", here)

    def warn(self, attempts: Collection[tuple[int, int]]) -> None:
        """Have SIGUSR1 sent to executables; see `Pool.warn`."""
        if here := [attempt for attempt in attempts if attempt in self._open]:
            self._say("warn", here)

    async def aclose(self) -> None:
        """End the executor and its workers. May be called again."""
        self._hang_up(("end",))
        process = self._process
        if process is not None and process.poll() is None:
            await exited(process)
        self._process = None

    # What the executor says

    def _take(self, kind: str, *rest: Any) -> None:  # noqa: ANN401 - as the kind of message has it
        self._silent_beats = 0
        if kind in self._hearing:
            self._hearing[kind](*rest)

    def _take_reports(self, number: int, rows: list[tuple[Any, ...]]) -> None:
        self._heard = number
        reports = relay.unpack_reports(rows, self.offset_ns)
        self._open.settle(reports)
        self._hear(reports)

    def _take_clock(self, asked_ns: int, its_ns: int) -> None:
        self._clock.learn(asked_ns, its_ns)
        self._questions -= 1
        if self._questions > 0:
            self._say("clock", time.monotonic_ns())
        elif not self._up.done():
            self._up.set_result(None)

    def _come_up(self, folder: str) -> None:
        self._folder = Path(folder)
        self._ask_clock()

    def _fail(self, reason: str) -> None:
        if not self._up.done():
            self._up.set_exception(BackendError(f"{self._post.node}: {reason}"))

    def _beat(self) -> None:
        self._silent_beats += 1
        self._beats += 1
        if self._silent_beats > SILENT_BEATS:
            self._lose(f"nothing was heard of its executor for {SILENT_BEATS * relay.BEAT_S:g} s")
            return
        if self._beats % _CLOCK_EVERY_BEATS == 0:
            self._ask_clock()
        self._beating = self._loop.call_later(relay.BEAT_S, self._beat)

    def _ask_clock(self) -> None:
        """Ask some times, one after the other: of the answers the quickest counts."""
        self._clock.forget()
        self._questions = _CLOCK_QUESTIONS
        self._say("clock", time.monotonic_ns())

    # Sending

    def _say(self, *message: Any) -> None:  # noqa: ANN401 - as the kind of order has it
        self._messages.append(message)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        messages, self._messages = self._messages, []
        if self._line is not None and messages:
            self._line.send(relay.pack(messages))

    # Its end

    def _give_up(self, reason: str) -> None:
        """Let the executor, which can start no more workers, end and clear up after itself."""
        self._lose(reason, ("end",))

    def _lose(self, reason: str, *last: tuple[Any, ...]) -> None:
        """Settle everything, the node being lost.

        Args:
            reason: Why.
            last: What the executor is told; without a word its `ssh` is killed.
        """
        if self._line is None:
            return
        self._hang_up(*last)
        if not last and self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if not self._up.done():
            self._up.set_exception(BackendError(f"{self._post.node}: {reason}; {self._last_words()}"))
            return
        if reports := self._open.lost(f"{self._post.node} was lost: {reason}"):
            self._hear(reports)
        self._on_lost(reason)

    def _give_back(self) -> None:
        if reports := self._open.given_back():
            self._hear(reports)

    def _hang_up(self, *last: tuple[Any, ...]) -> None:
        if self._beating is not None:
            self._beating.cancel()
        if self._line is not None:
            if last:
                self._line.send(relay.pack([*self._messages, *last]))
                self._messages = []
            self._line.close()
            self._line = None

    async def _kill(self) -> None:
        self._hang_up(("end",))
        if self._process is not None and self._process.poll() is None:
            await exited(self._process)

    def _last_words(self) -> str:
        """Return what the executor, or its ssh, has written."""
        with contextlib.suppress(OSError), open(self._log, "rb") as log:  # noqa: PTH123
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - _LAST_WORDS))
            if text := log.read().decode(errors="replace").strip():
                return f"its last words: {text}"
        return f"its log is {self._log}"
