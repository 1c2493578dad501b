"""One replica of a service: started, asked until it is ready, watched, started again, and ended."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from rhapsody.errors import RhapsodyError
from rhapsody.model.event import State
from rhapsody.services.probes import NotReadyError, Subject, tail_of
from rhapsody.services.states import ReplicaState, ReplicaView

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rhapsody.model.service import ReplicaTask
    from rhapsody.services.ground import Ground, Outlet
    from rhapsody.services.kit import Kit
    from rhapsody.services.service import ServiceTask
    from rhapsody.services.states import Address

_LOG_BYTES = 8_000
_LOG_LINES = 30
_PLACED = (State.PLACED, State.RUNNING)
_FIRST_LOOK_S = 0.05


class Replica:
    """Keeps one replica.

    Args:
        service: What it is of.
        number: Which, from 0.
        kit: Makes its starts.
        ground: The session.
        outlet: Where its clients come from.
        changed: Called when something about it is other than before.

    Attributes:
        state: How it is.
        reason: Why; empty if all is well.
        last_words: The last lines of its log, from when it ended by itself.
    """

    def __init__(
        self,
        service: ServiceTask,
        number: int,
        kit: Kit,
        ground: Ground,
        outlet: Outlet,
        changed: Callable[[], object],
    ) -> None:
        self._service, self._number, self._kit = service, number, kit
        self._ground, self._outlet, self._changed = ground, outlet, changed
        self._health = service.probes
        self._news = asyncio.Event()
        self._task: ReplicaTask | None = None
        self._address: Address | None = None
        self._starts = 0
        self._drain_s = service.drain_s
        self._ready_at: float | None = None
        self._timed_out = False
        self.state = ReplicaState.WAITING
        self.reason = self.last_words = ""
        self._retired = False

    def is_wanted(self) -> bool:
        """Return whether it shall be there."""
        return not self._retired

    @property
    def view(self) -> ReplicaView:
        """How it is, for others."""
        return ReplicaView(self._number, self.state, self._address, max(0, self._starts - 1), self.reason)

    def prepare(self) -> ReplicaTask:
        """Return the task of its next start."""
        self._starts += 1
        task = self._task = self._kit.make(self._number, self._starts)
        task.watch(lambda _task: self._news.set())
        return task

    def retire(self, *, drain: bool) -> None:
        """Have it drained and ended; `keep` returns then."""
        self._retired = True
        if not drain:
            self._drain_s = 0.0
        if (not drain or self.state is not ReplicaState.READY) and self._task is not None and not self._task.is_final:
            self._ground.cancel([self._task])  # at once: a question may be under way that nobody answers
        self._news.set()

    async def keep(self) -> None:
        """Return when it is over: retired, given up, or done. Its first start was submitted."""
        in_a_row = 0
        try:
            while self.is_wanted():
                why = await self._live()
                if self._has_ended_well():
                    self._enter(ReplicaState.DONE, "")
                    return
                if not self.is_wanted():
                    break
                if self._was_steady():
                    in_a_row = 0
                in_a_row += 1
                if not await self._start_again(in_a_row, why):
                    return
            self._enter(ReplicaState.STOPPED, "")
        finally:
            if self._task is not None and not self._task.is_final:
                self._ground.cancel([self._task])

    def _has_ended_well(self) -> bool:
        return self._service.ends and self._task is not None and self._task.state is State.DONE

    def _was_steady(self) -> bool:
        return self._ready_at is not None and time.monotonic() - self._ready_at >= self._service.restart.steady_s

    async def _start_again(self, in_a_row: int, why: str) -> bool:
        """Wait, and submit the next start; return whether there is one."""
        restart = self._service.restart
        self.last_words = self._log_lines()
        if in_a_row > restart.limit:
            self._give_up(f"{why}; it was started {in_a_row} times in a row")
            return False
        if self._timed_out:
            self._give_up(why)  # another start would take as long
            return False
        self._ground.tell(f"service {self._service.name}, replica {self._number}: {why}; it is started again")
        self._enter(ReplicaState.BACKING_OFF, why)
        await self._pause(restart.delay_before(in_a_row), until=lambda: not self.is_wanted())
        if not self.is_wanted():
            return True
        try:
            await self._ground.submit([self.prepare()])
        except RhapsodyError as exc:  # the session ends, or it fits no more
            self._give_up(f"{why}; it is not started again: {exc}")
            return False
        return True

    def _give_up(self, why: str) -> None:
        self._ground.tell(f"service {self._service.name}, replica {self._number} was given up: {why}")
        self._enter(ReplicaState.FAILED, why)

    # One start

    async def _live(self) -> str:
        """Go with one start to its end; return why it ended. Afterwards no process of it is left."""
        task = self._task if self._task is not None else self.prepare()
        self._timed_out, self._ready_at = False, None
        self._enter(ReplicaState.WAITING, "")
        address, why = await self._until_ready(task)
        if address is not None:
            why = await self._serve(task, address)
        await self._end(task)
        return why

    async def _serve(self, task: ReplicaTask, address: Address) -> str:
        """Have a replica served that is ready, until it ends or shall; return why it ended."""
        self._address, self._ready_at = address, time.monotonic()
        self._outlet.add(address)
        self._enter(ReplicaState.READY, "")
        try:
            why = await self._watch(task, address)
            if not task.is_final and not self.is_wanted():
                self._enter(ReplicaState.DRAINING, "")
                await self._outlet.drain(address.uid, self._drain_s)
        finally:
            self._outlet.remove(address.uid)
            self._address = None
        return why

    async def _end(self, task: ReplicaTask) -> None:
        if not task.is_final:
            self._ground.cancel([task])
            await self._until_final(task)
        self._kit.clear(self._number, self._starts)

    async def _until_final(self, task: ReplicaTask) -> None:
        while not task.is_final:
            self._news.clear()
            await self._news.wait()

    async def _until_ready(self, task: ReplicaTask) -> tuple[Address | None, str]:
        """Return where it is once it is ready; else None and why it will not be, unless it is not wanted."""
        deadline: float | None = None
        said, pause_s = "it has not said where it listens", _FIRST_LOOK_S
        while not task.is_final and self.is_wanted():
            if task.state in _PLACED and deadline is None:
                deadline = time.monotonic() + self._health.ready_within_s
                self._enter(ReplicaState.STARTING, "")
            if deadline is not None:
                try:
                    return await self._ask_whether_ready(task), ""
                except NotReadyError as exc:
                    said = str(exc)
                if time.monotonic() > deadline:
                    self._timed_out = True
                    return None, f"it was not ready within {self._health.ready_within_s:g} s: {said}"
            await self._pause(pause_s, until=lambda: task.is_final or not self.is_wanted())
            pause_s = min(self._health.poll_s, pause_s * 1.5)
        return None, self._exit_of(task) if task.is_final else ""

    async def _ask_whether_ready(self, task: ReplicaTask) -> Address:
        address = self._kit.address(task, self._number, self._starts)
        if address is None:
            raise NotReadyError("it has not said where it listens")
        await self._health.ready.ask(self._subject(address, self._health.ready_timeout_s))
        return address

    def _subject(self, address: Address, timeout_s: float) -> Subject:
        logs = self._kit.logs(self._number, self._starts)
        where = address.host, address.port, address.url
        return Subject(*where, logs, self._service.secrets, timeout_s)

    async def _watch(self, task: ReplicaTask, address: Address) -> str:
        """Return when it has ended, is not well, or is not wanted; why, unless the last."""
        bad = 0
        while True:
            await self._pause(self._health.every_s, until=lambda: task.is_final or not self.is_wanted())
            if task.is_final:
                return self._exit_of(task)
            if not self.is_wanted():
                return ""
            if self._health.well is None:
                continue
            try:
                await self._health.well.ask(self._subject(address, self._health.timeout_s))
            except NotReadyError as exc:
                bad += 1
                if bad >= self._health.failures:
                    return f"it is not well: {exc}, {bad} times in a row"
            else:
                bad = 0

    async def _pause(self, seconds: float, until: Callable[[], bool]) -> None:
        """Wait so long, or until something is the case."""
        deadline = time.monotonic() + seconds
        while not until():
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return
            self._news.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._news.wait()
            except TimeoutError:
                return

    def _exit_of(self, task: ReplicaTask) -> str:
        if task.state is State.DONE:
            return "it exited with code 0, though nobody had asked it to stop"
        return task.failure.message if task.failure is not None else f"it ended {task.state}"

    def _log_lines(self) -> str:
        """Return the last lines of the last start's log."""
        return "\n".join(filter(None, map(_last_lines, self._kit.logs(self._number, self._starts))))

    def _enter(self, state: ReplicaState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            self.state, self.reason = state, reason
            self._changed()


def _last_lines(path: Path) -> str:
    lines = tail_of(path, _LOG_BYTES).splitlines()[-_LOG_LINES:]
    return "\n".join([f"last lines of {path}:", *(f"  {line}" for line in lines)]) if lines else ""
