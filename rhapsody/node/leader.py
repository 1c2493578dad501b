"""What the agent on rank 0 does besides: it gathers the others, and runs the session."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import msgspec

from rhapsody.errors import BackendError, SpecError
from rhapsody.node import credentials, machine
from rhapsody.node.events import EventLog
from rhapsody.node.files import write_whole
from rhapsody.node.hub import Hub
from rhapsody.node.identity import own_addresses
from rhapsody.node.messages import Host, Meeting

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from rhapsody.node.children import Child, Nursery
    from rhapsody.node.commands import Limits
    from rhapsody.node.connection import Connection
    from rhapsody.node.credentials import Credentials
    from rhapsody.node.plan import Plan

NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as a shell says it


class Leader:
    """Rank 0's part of the job.

    Args:
        plan: What the agent is told.
        port: Where it listens.
        on_trusted: Called with the credentials of the run.
        on_hosts: Called with all nodes once they are there, and with those that come anew.
        say: Tells the user.

    Raises:
        SpecError: The run folder cannot be written, or the credentials cannot be used.
    """

    def __init__(
        self,
        plan: Plan,
        port: int,
        on_trusted: Callable[[Credentials], object],
        on_hosts: Callable[[list[Host], str], object],
        say: Callable[[str], object],
    ) -> None:
        self._plan = plan
        self._on_hosts = on_hosts
        self._say = say
        self._session: Child | None = None
        self._credentials = plan.folder / "credentials"
        self._meeting = plan.folder / "0.json"
        own = Host(0, plan.names[0], plan.names, "", port, machine.look())
        try:
            for folder in (plan.run_dir, plan.folder.parent, plan.folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            on_trusted(self._load())
            self._events = EventLog(plan.folder / "events", say)
            meeting = Meeting(own.name, own_addresses(), port, plan.job)
            write_whole(self._meeting, msgspec.json.encode(meeting))
        except OSError as exc:
            raise SpecError(f"cannot write {exc.filename or plan.folder}: {exc.strerror}; see --run-dir") from exc
        self._hub = Hub(plan, own, self._events, on_hosts, say)

    def _load(self) -> Credentials:
        if self._plan.credentials is None:
            return credentials.make(self._credentials)
        return credentials.load(self._plan.credentials, private=False)

    def helpers(self) -> list[Coroutine[None, None, None]]:
        """Return what has to go on beside."""
        return [self._hub.watch()]

    async def admit(self, connection: Connection, payload: bytes) -> None:
        """Serve another node's agent.

        Raises:
            ProtocolError: It says what it should not.
        """
        await self._hub.admit(connection, payload)

    async def work(self, nursery: Nursery, env: Mapping[bytes, bytes], limits: Limits) -> int:
        """Wait for all nodes, run the session and return its exit code."""
        try:
            await self._hub.complete(self._plan.join_limit_s)
        except (BackendError, OSError) as exc:
            self._say(str(exc))
            return 1
        name, *_ = command = self._plan.session
        nowhere = subprocess.DEVNULL if os.isatty(0) else None  # a terminal belongs to another session
        try:
            self._session = nursery.start(command, env, stdin=nowhere, preexec_fn=limits.give_back)
        except OSError as exc:
            self._say(f"cannot start {name}: {exc.strerror}")
            return NOT_FOUND if exc.errno == errno.ENOENT else NOT_EXECUTABLE
        return await asyncio.shield(self._session.ended)  # cancelled: it still gets the code

    def hear_signal(self, number: int) -> bool:
        """Hand a signal to the session, which decides; return whether there is one."""
        if self._session is None or self._session.ended.done():
            return False
        self._session.send_signal(number)
        return True

    def dismiss(self, reason: str) -> None:
        """Tell the others that the job ends."""
        self._hub.dismiss(reason)

    async def farewell(self) -> None:
        """Wait until the others have ended, and clear up what is only good for this job."""
        await self._hub.farewell()
        self._events.close()
        self._meeting.unlink(missing_ok=True)
        shutil.rmtree(self._plan.folder / "bin", ignore_errors=True)
        if self._plan.credentials is None:
            credentials.remove(self._credentials)
