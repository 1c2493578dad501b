"""The worker pool of one node: chunks in, reports out.

Workers are started by a `Starter`, connect over a Unix socket, and are bound to a lane (cores, GPUs) for life. The pool
sends chunks without waiting, reads results as they come, and looks at each busy worker twenty times a second: a
task that is still the same is reported RUNNING, what waits behind it is called back for others to take, time limits are
kept. A worker that dies takes the task that it was running with it, and no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import itertools
import mmap
import os
import secrets
import shutil
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING

from rhapsody.abc import Report
from rhapsody.backends import verdicts, wire
from rhapsody.backends.keeper import Duty
from rhapsody.backends.member import Chunk, Extent, InFlight, Lane, Member
from rhapsody.backends.pool_folder import POOL_FOLDER, make_pool_folder
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.node.processes import describe_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from rhapsody.backends.pool_settings import PoolSettings
    from rhapsody.backends.starter import Starter

LOOK_S = 0.05
"""Seconds between two looks at busy workers; a task is reported RUNNING after one to two of them."""
CONNECT_LIMIT_S = 60.0
STARTS_IN_A_ROW = 3
"""Workers of a lane that may die before they connect until its tasks fail."""
_LISTEN_BACKLOG = 512


class Pool:
    """The workers of one node.

    Args:
        starter: Starts and watches the worker processes.
        settings: What workers are told.
        hear: Called with reports, on the loop that `start` was called from.
        on_lost: Called with the reason when the pool can start no more workers; all open tasks were reported on before.
    """

    def __init__(
        self,
        starter: Starter,
        settings: PoolSettings,
        hear: Callable[[list[Report]], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._starter = starter
        self._settings = settings
        self._hear = hear
        self._on_lost = on_lost
        self._token = secrets.token_bytes(wire.TOKEN_BYTES)
        self._ids = itertools.count(1)
        self._lanes: dict[str, Member] = {}
        self._members: dict[int, Member] = {}
        self._functions: dict[int, bytes] = {}
        self._outdated: set[int] = set()
        """Functions to be forgotten once no chunk waits for a worker with them."""
        self._failed_starts: dict[str, int] = {}
        self._buried = 0
        """Workers whose end was settled."""
        self._settled: int | None = None if settings.journals_at_once else 0
        """How many of those the journal is known to have all results of; None: of all that launches can follow."""
        self._folder: Path | None = None
        self._listener: socket.socket | None = None
        self._looking: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop

    @property
    def folder(self) -> Path:
        """Private folder on the node's own disk, removed at the end."""
        if self._folder is None:
            raise RuntimeError("the pool was not started")
        return self._folder

    async def start(self) -> None:
        """Listen for workers; they are started when their lane is first used.

        Raises:
            BackendError: Workers cannot be started.
        """
        self._loop = asyncio.get_running_loop()
        self._folder = make_pool_folder()
        try:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            self._listener.bind(str(self._folder / "pool"))
            self._listener.listen(_LISTEN_BACKLOG)
            self._loop.add_reader(self._listener, self._accept)
            address, settings = str(self._folder / "pool"), self._settings
            duty = Duty(address, self._token, str(self._folder), str(settings.log), settings.sys_path)
            await self._starter.open(duty, self._bury, self._lose)
        except BaseException:  # cancellation too: neither socket nor folder may stay
            self._close_listener()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def define(self, function_id: int, blob: bytes) -> None:
        """Make a function known; workers get it when they first need it."""
        self._functions[function_id] = blob

    def forget(self, function_id: int) -> None:
        """Drop a function that no later chunk uses; one that waits for its worker to connect keeps it till then."""
        if any(function_id in chunk.functions for member in self._members.values() for chunk in member.pending):
            self._outdated.add(function_id)
            return
        del self._functions[function_id]
        for member in self._members.values():
            if function_id in member.functions:
                member.functions.discard(function_id)
                self._send(member, wire.frame(("forget", function_id)))

    def feed(self, lane: Lane, chunk: Chunk) -> None:
        """Hand a chunk to the worker of a lane; it is started if there is none."""
        member = self._lanes.get(lane.name)
        if member is None:
            member = self._lanes[lane.name] = Member(next(self._ids), lane, self._settings.decoder)
            self._members[member.worker_id] = member
            self._starter.start(member.worker_id, self._buried if self._settled is None else self._settled)
        if member.connection is None:
            member.pending.append(chunk)
        else:
            self._pass_on(member, chunk)
        if self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def cancel(self, attempts: Collection[tuple[int, int]]) -> None:
        """Stop attempts, given as `(number, attempt)`; their reports come by themselves."""
        wanted = set(attempts)
        for member in list(self._members.values()):
            if member.pending:
                self._cancel_pending(member, wanted)
            marked = {task.sequence for task in member.in_flight() if (task.number, task.attempt) in wanted}
            if marked:
                member.canceled |= marked
                self._stop_canceled(member)

    def warn(self, attempts: Collection[tuple[int, int]]) -> None:
        """Have workers send SIGUSR1 to the executables that they run, given as `(number, attempt)`."""
        wanted = set(attempts)
        for member in self._members.values():
            for task in member.in_flight():
                if (task.number, task.attempt) in wanted and "argv" in task.extra:
                    self._send(member, wire.frame(("warn", task.extra["uid"], task.attempt)))

    def read(self) -> Extent:
        """Return how far workers' results were read: for `settle`, once the journal has them."""
        return Extent(self._buried, [(member, member.read) for member in self._members.values()])

    def settle(self, extent: Extent) -> None:
        """Let workers and what starts them forget results that the journal has."""
        self._settled = extent.buried
        for member, sequence in extent.members:
            member.settled = sequence

    async def aclose(self) -> None:
        """End every worker; nothing of the pool is left afterwards. May be called again."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._close_listener()
        for member in list(self._members.values()):
            self._send(member, wire.frame(("stop",)))
            self._hang_up(member)
            member.close()
        self._members.clear()
        self._lanes.clear()
        try:
            await self._starter.aclose()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    # Connecting

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            connection.setblocking(False)  # noqa: FBT003 - positional only
            self._loop.add_reader(connection, self._greet, connection)

    def _greet(self, connection: socket.socket) -> None:
        """Read a worker's hello; whoever cannot show the token is hung up on."""
        self._loop.remove_reader(connection)
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, wire.HELLO.size, 1)
            token, pid, worker_id = wire.HELLO.unpack(data)
            (descriptor,) = descriptors
        except (OSError, ValueError, struct.error):
            connection.close()
            return
        member = self._members.get(worker_id)
        if member is None or member.connection is not None or not hmac.compare_digest(token, self._token):
            os.close(descriptor)
            connection.close()
            return
        page = mmap.mmap(descriptor, wire.PAGE_BYTES)
        os.close(descriptor)
        member.connect(connection, pid, page)
        self._failed_starts.pop(member.lane.name, None)
        self._loop.add_reader(connection, self._read, member)
        self._welcome(member)

    def _welcome(self, member: Member) -> None:
        settings, lane = self._settings, member.lane
        welcome = {
            "clock_offset_ns": settings.clock_offset_ns,
            "env": {**settings.env, **dict(lane.env), POOL_FOLDER: str(self._folder)},
            "cpus": list(lane.cpus),
            "cwd": settings.cwd,
            "campaign_file": settings.campaign_file,
        }
        self._send(member, wire.frame(("welcome", welcome)))
        pending, member.pending = member.pending, []
        for chunk in pending:
            self._pass_on(member, chunk)
        outdated, self._outdated = self._outdated, set()
        for function_id in outdated:
            self.forget(function_id)

    # Sending and reading

    def _pass_on(self, member: Member, chunk: Chunk) -> None:
        for function_id in set(chunk.functions) - member.functions:
            if function_id >= 0:
                member.functions.add(function_id)
                self._send(member, wire.frame(("define", function_id, self._functions[function_id])))
        self._send(member, member.take(chunk, member.read if self._settled is None else member.settled))

    def _send(self, member: Member, data: bytes) -> None:
        connection = member.connection
        if connection is None:
            return
        if member.outgoing:
            member.outgoing.append(memoryview(data))
            return
        try:
            sent = connection.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dying: its end is reported by the starter
            return
        if sent < len(data):
            member.outgoing.append(memoryview(data)[sent:])
            self._loop.add_writer(connection, self._send_more, member)

    def _send_more(self, member: Member) -> None:
        connection, outgoing = member.connection, member.outgoing
        while connection is not None and outgoing:
            try:
                sent = connection.send(outgoing[0])
            except BlockingIOError:
                return
            except OSError:
                outgoing.clear()
                break
            if sent < len(outgoing[0]):
                outgoing[0] = outgoing[0][sent:]
                return
            outgoing.popleft()
        if connection is not None:
            self._loop.remove_writer(connection)

    def _read(self, member: Member) -> None:
        if member.connection is None:
            return
        try:
            data = member.connection.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(member.connection)  # it is dying: its end is reported by the starter
            return
        reports = member.receive(data)
        if reports:
            self._hear(reports)

    # Looking after busy workers

    def _look(self) -> None:
        self._looking = None
        busy = False
        for member in list(self._members.values()):
            if member.connection is None:
                busy = True
                if time.monotonic() - member.started_s > CONNECT_LIMIT_S:
                    member.started_s = time.monotonic()
                    self._starter.kill(member.worker_id)
                continue
            if member.is_idle:
                continue
            busy = True
            if member.canceled:
                self._stop_canceled(member)
            current = member.current
            if current == member.seen:
                self._look_after(member, current)
            member.seen = current
        if busy and self._looking is None:
            self._looking = self._loop.call_later(LOOK_S, self._look)

    def _look_after(self, member: Member, current: int) -> None:
        """Tend to a worker that has been at one task since the last look."""
        tasks = list(member.in_flight())
        task = next((task for task in tasks if task.sequence == current), None)
        if task is None:
            return
        reports: list[Report] = []
        if len(tasks) > 1:
            reports += self._call_back(member)
        if member.announced != current and any(open_task.sequence == current for open_task in member.in_flight()):
            member.announced = current
            reports.append(Report(task.number, task.attempt, State.RUNNING, member.started_ns, items=task.items))
        if reports:
            self._hear(reports)
        timeout_s = task.extra.get("timeout_s")
        if timeout_s is not None and "argv" not in task.extra and not member.doomed:
            now_ns = time.monotonic_ns() + self._settings.clock_offset_ns
            if now_ns - member.started_ns > timeout_s * 1e9:
                self._doom(member, current, "timeout")

    def _call_back(self, member: Member) -> list[Report]:
        """Halt a worker, read what it finished, and take back what it has not started."""
        if not member.halt():
            member.go_on()
            return []
        try:
            reports = member.harvest()
            taken = member.call_back()
        finally:
            member.go_on()
        return reports + [self._given_back(member, task) for task in taken]

    @staticmethod
    def _given_back(member: Member, task: InFlight) -> Report:
        if task.sequence in member.canceled:
            member.canceled.discard(task.sequence)
            return verdicts.canceled(task)
        return verdicts.given_back(task)

    def _stop_canceled(self, member: Member) -> None:
        reports = self._call_back(member)
        current = member.current
        tasks = list(member.in_flight())
        member.canceled &= {task.sequence for task in tasks}
        if reports:
            self._hear(reports)
        for task in tasks:
            if task.sequence == current and task.sequence in member.canceled:
                if "argv" in task.extra:
                    member.canceled.discard(current)
                    self._send(member, wire.frame(("end", "canceled")))
                else:
                    self._doom(member, current, "canceled")

    def _doom(self, member: Member, sequence: int, reason: str) -> None:
        """Kill a worker for the task it is at, unless it has just finished it."""
        if member.doomed or not member.halt():
            member.go_on()
            return
        reports = member.harvest() + [self._given_back(member, task) for task in member.call_back()]
        if any(task.sequence == sequence for task in member.in_flight()):
            member.doomed = reason
            self._starter.kill(member.worker_id)  # and it stays halted until then
        else:
            member.go_on()
        if reports:
            self._hear(reports)

    def _cancel_pending(self, member: Member, wanted: Collection[tuple[int, int]]) -> None:
        kept: list[Chunk] = []
        reports: list[Report] = []
        for chunk in member.pending:
            chosen = {at: task for at, task in enumerate(chunk.tasks()) if (task.number, task.attempt) in wanted}
            reports += map(verdicts.canceled, chosen.values())
            if rest := chunk.without(chosen):
                kept.append(rest)
        member.pending = kept
        if reports:
            self._hear(reports)

    # Ends

    def _bury(self, worker_id: int, exit_code: int) -> None:
        """Settle what a dead worker had; called once it and its children are gone."""
        member = self._members.pop(worker_id, None)
        if member is None:
            self._buried += 1
            return
        if self._lanes.get(member.lane.name) is member:
            del self._lanes[member.lane.name]
        reports = self._last_words(member)
        pending, connected = member.pending, member.connection is not None
        open_tasks, current, item = member.bury()
        for task in open_tasks:
            if task.sequence == current:
                reports += self._blame(member, task, exit_code, item)
            else:
                reports.append(self._given_back(member, task))
        self._hang_up(member)
        member.close()
        if not connected:
            reports += self._settle_unconnected(member, pending, exit_code)
        if reports:
            self._hear(reports)
        self._buried += 1

    def _last_words(self, member: Member) -> list[Report]:
        reports: list[Report] = []
        with contextlib.suppress(OSError):  # nothing more to read
            while member.connection is not None and (data := member.connection.recv(1 << 18)):
                reports += member.receive(data)
        return reports + member.harvest()

    def _blame(self, member: Member, task: InFlight, exit_code: int, item: int) -> list[Report]:
        """Report the task that a worker died with; of an array task the item, and those whose values died with it."""
        times = member.started_ns, time.monotonic_ns() + self._settings.clock_offset_ns
        if member.doomed == "canceled":
            return [verdicts.canceled(task, times)]
        process = f"worker process {member.pid} on {self._settings.node}"
        failure = verdicts.why_it_died(task, member.doomed, process, exit_code)
        return verdicts.blame_item(task, item, failure, times)

    def _settle_unconnected(self, member: Member, pending: list[Chunk], exit_code: int) -> list[Report]:
        """Give back the tasks of a worker that never connected, or fail them when that goes on and on."""
        name = member.lane.name
        failed = self._failed_starts[name] = self._failed_starts.get(name, 0) + 1
        tasks = [task for chunk in pending for task in chunk.tasks()]
        if failed < STARTS_IN_A_ROW:
            return [verdicts.given_back(task) for task in tasks]
        text = (
            f"{failed} worker processes in a row on {self._settings.node} {describe_exit(exit_code)} before they"
            f" connected; see {self._settings.log}"
        )
        return [verdicts.failed(task, Failure(Cause.LAUNCH, text)) for task in tasks]

    def _lose(self, reason: str) -> None:
        """Settle everything when workers can neither be started nor watched any more."""
        reports: list[Report] = []
        for member in self._members.values():
            reports += self._last_words(member)
            unsent = [task for chunk in member.pending for task in chunk.tasks()]
            open_tasks, current, _ = member.bury()
            never = Failure(Cause.LAUNCH, reason)
            for task in open_tasks:
                is_current = task.sequence == current
                reports.append(verdicts.lost(task, reason) if is_current else verdicts.failed(task, never))
            reports += [verdicts.failed(task, never) for task in unsent]
            self._hang_up(member)
            member.close()
        self._members.clear()
        self._lanes.clear()
        if reports:
            self._hear(reports)
        self._on_lost(reason)

    def _hang_up(self, member: Member) -> None:
        if member.connection is not None:
            self._loop.remove_reader(member.connection)
            self._loop.remove_writer(member.connection)
        member.outgoing = deque()

    def _close_listener(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
