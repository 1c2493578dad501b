"""The agent of a node: what it does from its start to its end.

The agent on rank 0 waits until all nodes are there, then starts the session; the job ends with it. The others serve
until rank 0 says so, or is gone. Whatever was started through an agent ends with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from rhapsody.node import credentials
from rhapsody.node.children import Nursery
from rhapsody.node.commands import Commands, raise_limits
from rhapsody.node.files import write_whole
from rhapsody.node.follower import Follower
from rhapsody.node.identity import environment_of_commands
from rhapsody.node.leader import Leader
from rhapsody.node.listener import Listener
from rhapsody.node.messages import Host, render_hosts
from rhapsody.node.private_folder import FOLDER, MARK, NAME, NODES, SAME_ON_ALL, PrivateFolder
from rhapsody.node.processes import end_children, end_marked
from rhapsody.node.protocol import Kind, ProtocolError
from rhapsody.node.traces import Traces, sweep, watched_folders

if TYPE_CHECKING:
    from rhapsody.node.connection import Connection
    from rhapsody.node.credentials import Credentials
    from rhapsody.node.plan import Plan

TERM_GRACE_S = 5.0
"""What still runs at the end gets SIGTERM, and SIGKILL so much later."""
HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Agent:
    """One node's agent; made and run inside an event loop.

    Args:
        plan: What it is told.
        folder: Its own folder.
        keeper: Process id of the one that started it.

    Raises:
        SpecError: What it is told cannot be done.
    """

    def __init__(self, plan: Plan, folder: PrivateFolder, keeper: int) -> None:
        self._plan = plan
        self._folder = folder
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._nursery = Nursery()
        own = {
            "TMPDIR": str(folder.path / "tmp"),
            "RHAPSODY_HOSTFILE": str(folder.path / "hostfile"),
            "RHAPSODY_NODE_COUNT": str(plan.place.nodes),
            "RHAPSODY_NODE_RANK": str(plan.place.rank),
            NAME: plan.names[0],
            FOLDER: str(folder.path),
            MARK: folder.name,
        }
        self._env = environment_of_commands([folder.path / "bin", plan.folder / "bin"], own)
        self._limits = raise_limits(plan.commands, plan.place.nodes)
        self._commands = Commands(self._nursery, self._env, self._limits, folder.path, self._say)
        self._listener = Listener(plan.port, self._handle, self._say)
        self._hosts: dict[int, Host] = {}
        self._traces: Traces | None = None
        self._told_to_end: asyncio.Future[str] = self._loop.create_future()
        self._ended_by: int | None = None
        role = Follower if plan.place.rank else Leader
        self._role = role(plan, self._listener.port, self._trust, self._know, self._say)

    def _say(self, text: str) -> None:
        """Tell the user, on stderr, who and when."""
        sys.stderr.write(
            f"{time.strftime('%H:%M:%S')} rhapsody-node {self._plan.place.rank} ({self._plan.names[0]}): {text}\n"
        )
        sys.stderr.flush()

    async def run(self) -> int:
        """Serve to the end of the job; return the exit code."""
        self._clear_up_after_others()
        self._traces = self._watch_traces()
        for number in HEARD:
            self._loop.add_signal_handler(number, self._hear_signal, number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*HEARD, signal.SIGCHLD})  # those that came earlier are heard now
        keeper = os.pidfd_open(self._keeper)
        self._loop.add_reader(keeper, self._end, "its first process was killed")
        try:
            return await self._serve()
        finally:
            self._loop.remove_reader(keeper)
            os.close(keeper)
            self._nursery.close()
            if self._traces is not None:
                self._traces.close()
            sweep(self._folder.traces)

    async def _serve(self) -> int:
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(work) for work in (self._listener.serve(), *self._role.helpers())]
            work = group.create_task(self._role.work(self._nursery, self._env, self._limits))
            work.add_done_callback(lambda _: self._end("the job has ended"))
            reason = await self._told_to_end
            if work.done():
                code = work.result()
            else:
                work.cancel()
                self._say(f"ends: {reason}")
                code = 1 if self._ended_by is None else 128 + self._ended_by
            self._role.dismiss(reason)
            await self._end_all()
            await self._role.farewell()
            for task in helpers:
                task.cancel()
        self._listener.close()
        return code

    async def _end_all(self) -> None:
        """End all that was started here, adopted processes included."""
        if self._traces is not None:
            self._traces.look()
        self._nursery.signal_all(signal.SIGTERM)
        self._nursery.signal_all(signal.SIGCONT)
        with suppress(TimeoutError):
            async with asyncio.timeout(TERM_GRACE_S):
                await self._nursery.all_ended()
        self._nursery.signal_all(signal.SIGKILL)
        await self._nursery.all_ended()
        end_children()

    def _clear_up_after_others(self) -> None:
        for left in PrivateFolder.forsaken():
            self._say(f"clears up after an agent that was killed: {left.path}")
            end_marked(MARK, left.name)
            left.clear()

    def _watch_traces(self) -> Traces | None:
        try:
            return Traces(self._folder.traces, watched_folders())
        except OSError as exc:
            self._say(f"{exc.strerror}: shared memory that killed programs leave will stay")
            return None

    def _end(self, reason: str) -> None:
        """Begin the end; the first reason counts."""
        if not self._told_to_end.done():
            self._told_to_end.set_result(reason)

    def _hear_signal(self, number: int) -> None:
        if not self._role.hear_signal(number) and number != signal.SIGUSR1:
            self._ended_by = number
            self._end(f"it got {signal.Signals(number).name}")

    async def _handle(self, connection: Connection, kind: Kind, payload: bytes) -> None:
        """Serve somebody who knows the token."""
        if kind == Kind.JOIN:
            await self._role.admit(connection, payload)
        elif kind != Kind.COMMAND:
            raise ProtocolError(f"a frame {kind.name} instead of a request")
        elif self._told_to_end.done():
            connection.send(Kind.REFUSED, b"its agent is ending")
        else:
            await self._commands.serve(connection, payload)

    def _know(self, hosts: list[Host], leader: str) -> None:
        """Write down for the `ssh` where the nodes are."""
        self._hosts |= {host.rank: host for host in hosts}
        ordered = [self._hosts[rank] for rank in sorted(self._hosts)]
        text = render_hosts(ordered, self._plan.place.rank, leader)
        write_whole(self._folder.path / "hosts", text.encode())
        write_whole(self._folder.path / NODES, msgspec.json.encode(ordered))
        write_whole(self._folder.path / "hostfile", "".join(f"{host.name}\n" for host in ordered).encode())

    def _trust(self, trusted: Credentials) -> None:
        """Believe those who know the token, and let the `ssh` know it."""
        self._listener.trust(trusted)
        certificate = (trusted.folder / credentials.CERTIFICATE).read_bytes()
        write_whole(self._folder.path / credentials.CERTIFICATE, certificate)
        write_whole(self._folder.path / credentials.TOKEN, trusted.token.encode())
        same = self._plan.folder / "bin" / "ssh"
        if not same.exists():
            same.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(same, SAME_ON_ALL.encode(), 0o700)
