"""The keeper of a node's workers where Dragon starts them.

Dragon, its head program and the workers all run below this process, which lies outside of Dragon: so it outlives
whatever happens there, holds what workers note, sees them die at once, and ends all of it.
"""

from __future__ import annotations

import contextlib
import hmac
import marshal
import os
import select
import signal
import socket
import struct
import time
from pathlib import Path
from typing import NamedTuple

from rhapsody.backends.dragon import link
from rhapsody.backends.dragon.frontend import allow_many_descriptors
from rhapsody.backends.dragon.part import Part
from rhapsody.backends.dragon.plan import Plan, Role
from rhapsody.backends.keeper import Duty, Keeper, say, take_up
from rhapsody.node.processes import children, end_children

START_LIMIT_S, START_LIMIT_OF_SEVERAL_S = 60.0, 100.0
TRIES = 2
BEAT_S = 5.0
BEAT_LIMIT_S = 60.0
"""Dragon that does not answer for so long is given up. It may be busy starting workers, 20 ms each."""
_HELLO_LIMIT_S = 5.0


def start_limit_s(plan: Plan) -> float:
    """Return how long a start may take; on other hosts than the first, how long all tries of that may take."""
    if plan.role == Role.ALONE:
        return START_LIMIT_S
    return START_LIMIT_OF_SEVERAL_S * (TRIES + 0.2 if plan.role == Role.OTHER else 1)


class _Worker(NamedTuple):
    pid: int
    descriptor: int


class Warden(Keeper):
    """Keeps Dragon; see `Keeper`."""

    def __init__(self, session: socket.socket, duty: Duty, plan: Plan) -> None:
        super().__init__(session, duty)
        self._folder = Path(duty.folder)
        self._plan = plan
        self._part: Part | None = None
        self._limit_s = start_limit_s(plan)
        self._tries = 0
        self._started = 0.0
        self._head: socket.socket | None = None
        self._is_up = False
        self._heard = 0.0
        """When the head said anything."""
        self._next_beat = 0.0
        self._workers: dict[int, _Worker] = {}
        """Living workers that have greeted, by worker id."""
        self._why_lost = ""
        self._session_pid = os.getppid()
        self._listener, self._token = link.listen(self._folder)
        self._watch(self._listener.fileno(), self._greet)

    # Dragon's start, beats and end

    def _step(self, wait_s: float | None = None) -> None:
        now = time.monotonic()
        if self._part is None:
            self._start_dragon(now)
        elif self._is_up and now >= self._next_beat:
            self._beat(now)
        elif not self._is_up and now >= self._started + self._limit_s:
            self._start_failed(f"it was not up within {self._limit_s:g} s")
        if not self._is_over:
            super()._step(self._until_next() if wait_s is None else wait_s)

    def _until_next(self) -> float:
        """Return the seconds until something is due without anybody asking for it."""
        if self._part is None:
            return 0.0
        due = self._next_beat if self._is_up else self._started + self._limit_s
        return max(0.0, due - time.monotonic())

    def _start_dragon(self, now: float) -> None:
        self._tries += 1
        if self._plan.role != Role.OTHER or not self._started:
            self._started = now
        self._part = Part(self._folder, self._plan)
        try:
            self._part.start()
        except OSError as exc:
            self._start_failed(f"it could not be started: {exc}")

    def _start_failed(self, why: str) -> None:
        if self._part is None:
            return
        self._drop_head()
        text = f"Dragon did not start: {why}; {self._part.last_words()}"
        self._end_part()
        if self._may_try_again():
            say(f"{text}\nit is tried again")
            return
        self._give_up(f"{text}\n(tried {self._tries} times)")

    def _may_try_again(self) -> bool:
        if self._plan.role == Role.OTHER:  # the first host's warden tries, and hands over a back end anew
            return time.monotonic() < self._started + self._limit_s
        return self._tries < TRIES

    def _end_part(self) -> None:
        if self._part is not None:
            if self._part.back_end is not None:
                self._selector.unregister(self._part.back_end.hand.fileno())
            self._part.end()
            self._part = None

    def _beat(self, now: float) -> None:
        if now - self._heard > BEAT_LIMIT_S:
            self._lose(f"it did not answer for {now - self._heard:.0f} s")
        elif self._part is not None:
            self._part.note_shared_memory()
            self._next_beat = now + BEAT_S
            self._order("beat")

    def _lose(self, why: str) -> None:
        said = "" if self._part is None else f"; {self._part.last_words()}"
        self._give_up(f"Dragon is gone: {why}{said}")

    def _give_up(self, why: str) -> None:
        """End everything, the session being alive: it needs no file to learn what workers have noted."""
        self._why_lost = why
        self._is_over = self._was_told_to_end = True

    def _end_all(self) -> None:
        if self._why_lost and os.getppid() != self._session_pid:  # the session has died, too
            self._was_told_to_end = False
        super()._end_all()
        if self._why_lost:
            self._tell("lost", self._why_lost)

    def _wait_for_workers(self, deadline: float) -> None:
        if self._why_lost:
            return  # its Dragon is gone: a worker that goes on is of no use
        waiting = select.poll()
        left = {worker.descriptor for worker in self._workers.values()}
        for descriptor in left:
            waiting.register(descriptor, select.POLLIN)
        while left and (rest_s := deadline - time.monotonic()) > 0:
            for descriptor, _ in waiting.poll(rest_s * 1000 + 1):
                waiting.unregister(descriptor)
                left.discard(descriptor)

    def _end_runtime(self) -> None:
        self._drop_head()
        self._listener.close()
        self._end_part()

    def _bury(self) -> None:
        why = self._part.why_ended() if self._part is not None else ""
        if why:
            self._part_ended(why)
            return
        keep = self._part.pids if self._part is not None else []
        if len(children()) > len(keep):  # left by a worker that died, or by a task that it had run
            end_children(keep=keep)

    def _part_ended(self, why: str) -> None:
        if self._is_up:
            self._lose(why)
        else:
            self._start_failed(why)

    # The head and hands

    def _order(self, *message: str | int) -> None:
        if self._head is not None:
            with contextlib.suppress(OSError):  # it is gone: the next receive says so
                link.send(self._head, *message)

    def _hear(self) -> None:
        if self._head is None:
            return
        message = link.receive(self._head)
        if message is None:
            self._part_ended("its head program has ended")
            return
        self._heard = time.monotonic()
        kind, *rest = message
        if kind == "up":
            self._come_up(rest[0])
        elif kind == "exit":
            self._worker_ended(*rest)

    def _come_up(self, version: str) -> None:
        if self._part is not None:
            self._part.note_shared_memory()
        self._is_up = True
        self._next_beat = self._heard + BEAT_S
        self._tell("up", version, self._heard - self._started, self._tries)

    def _take_hand(self, connection: socket.socket) -> None:
        """Start the back end that it brings, and end it when the hand is gone."""
        try:
            if self._part is None:
                raise ConnectionError("nothing is started here")
            self._part.take(connection)
        except (OSError, ValueError) as exc:
            say(f"a hand was sent away: {exc}")
            connection.close()
            return
        self._watch(connection.fileno(), self._hear_hand)

    def _hear_hand(self) -> None:
        if self._part is not None and self._part.back_end is not None and not self._part.back_end.hear():
            self._part_ended("the ssh that had started its back end on this host is gone")

    def _drop_head(self) -> None:
        if self._head is not None:
            self._selector.unregister(self._head.fileno())
            self._head.close()
            self._head = None

    # Workers

    def _start(self, worker_id: int) -> None:
        self._take_notes(worker_id)
        self._order("start", worker_id)

    def _kill(self, worker_id: int) -> None:
        if worker_id in self._workers:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._workers[worker_id].descriptor, signal.SIGKILL)
        else:
            self._order("kill", worker_id)

    def _pids(self) -> list[int]:
        return [worker.pid for worker in self._workers.values()]

    def _greet(self) -> None:
        """Welcome the head or a worker; whoever cannot show the token is hung up on."""
        connection, _ = self._listener.accept()
        connection.settimeout(_HELLO_LIMIT_S)
        try:
            token, who = link.HELLO.unpack(connection.recv(link.HELLO.size))
        except (OSError, struct.error):
            connection.close()
            return
        if not hmac.compare_digest(token, self._token):
            connection.close()
        elif who == link.HAND:
            self._take_hand(connection)
        elif who == link.HEAD:
            self._welcome_head(connection)
        else:
            with connection:
                self._welcome_worker(connection, who)

    def _welcome_head(self, connection: socket.socket) -> None:
        if self._head is not None or self._part is None:
            connection.close()  # of a try that was given up
            return
        connection.settimeout(BEAT_LIMIT_S)  # one that takes no orders any more is noticed by its beats
        self._head = connection
        self._watch(connection.fileno(), self._hear)
        with contextlib.suppress(OSError):
            connection.send(self._welcome())

    def _welcome_worker(self, connection: socket.socket, worker_id: int) -> None:
        if worker_id not in self._notes or worker_id in self._workers:
            return
        pid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:  # it is dead already: the head sees that
            return
        self._workers[worker_id] = _Worker(pid, descriptor)
        self._watch(descriptor, lambda: self._worker_died(worker_id))
        self._order("seen", worker_id)
        notes = self._notes[worker_id]
        memory = [] if notes is None else [notes.descriptors.page, *notes.descriptors.buffers]
        with contextlib.suppress(OSError):  # it has just died
            socket.send_fds(connection, [self._welcome()], memory)

    def _welcome(self) -> bytes:
        duty = self._duty
        environ, cpus = dict(os.environ), tuple(os.sched_getaffinity(0))
        return marshal.dumps(tuple(link.Welcome(duty.address, duty.token, duty.log, duty.sys_path, environ, cpus)))

    def _worker_died(self, worker_id: int) -> None:
        if worker_id not in self._workers:
            return
        self._selector.unregister(self._workers[worker_id].descriptor)
        self._bury()  # first what it has left, which holds its output: Dragon 0.15.0 reads that to its end, and hangs
        self._order("reap", worker_id)  # only its parent, Dragon, can say how it ended

    def _worker_ended(self, worker_id: int, code: int) -> None:
        if worker_id not in self._notes:
            return
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            with contextlib.suppress(KeyError):  # it was seen to die
                self._selector.unregister(worker.descriptor)
            os.close(worker.descriptor)
        self._bury()
        self._has_ended(worker_id, code)


def main(descriptor: str) -> None:
    """Run a warden on an inherited socket.

    Args:
        descriptor: Of the socket pair's end; its first message is the `Duty`, and a `Plan`.
    """
    session, duty, further = take_up(int(descriptor))
    allow_many_descriptors()
    Warden(session, duty, Plan(**marshal.loads(further))).serve()  # noqa: S302 - inherited
