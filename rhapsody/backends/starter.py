"""Who starts a pool's workers: the contract, and the guardian process that does it locally."""

from __future__ import annotations

import asyncio
import contextlib
import marshal
import os
import socket
import subprocess
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from rhapsody.backends import bootstrap
from rhapsody.errors import BackendError
from rhapsody.node.processes import describe_exit, end_marked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rhapsody.backends.keeper import Duty

END_LIMIT_S = 15.0
"""A keeper that has not ended by then is killed."""
_MARK = "RHAPSODY_POOL"
"""Variable by which everything that descends from a keeper is known when the keeper is gone."""


class Starter(Protocol):
    """Starts workers on one node and notices their end. All calls come from the pool's event loop."""

    @abstractmethod
    async def open(self, duty: Duty, on_exit: Callable[[int, int], None], on_lost: Callable[[str], None]) -> None:
        """Get ready.

        Args:
            duty: What workers have to know to reach the pool.
            on_exit: Called with worker id and exit code (negative: the signal) once a worker and every process that it
                left behind are gone.
            on_lost: Called with the reason when no more workers can be started or watched.

        Raises:
            BackendError: It cannot start workers.
        """

    @abstractmethod
    def start(self, worker_id: int, settled: int) -> None:
        """Start a worker; it connects to the pool by itself.

        Args:
            worker_id: Of the new one.
            settled: What the first so many workers that ended had noted may be forgotten: the journal has it.
        """

    @abstractmethod
    def kill(self, worker_id: int) -> None:
        """End a worker at once, with all its children; `on_exit` tells when that is done."""

    @abstractmethod
    async def aclose(self) -> None:
        """End every worker, idle ones gently; nothing of them is left afterwards."""


class KeeperStarter:
    """Has workers started by a keeper, a process of its own; see `rhapsody.backends.keeper`.

    Args:
        left: File that the keeper writes what workers have noted to, should this process die; None for none.
    """

    _title: ClassVar[str]
    """Shown in lists of processes."""
    _module: ClassVar[str]
    """Whose `main` the keeper runs."""

    def __init__(self, left: Path | None = None) -> None:
        self._left = left
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._on_exit: Callable[[int, int], None] = lambda _worker, _code: None
        self._on_lost: Callable[[str], None] = lambda _reason: None
        self._log = ""
        self._mark = ""

    async def open(self, duty: Duty, on_exit: Callable[[int, int], None], on_lost: Callable[[str], None]) -> None:
        """Start the keeper; see `Starter.open`."""
        self._on_exit, self._on_lost, self._log, self._mark = on_exit, on_lost, duty.log, duty.folder
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - a millisecond; asyncio's own takes longer
                    bootstrap.command(self._title, self._module, str(theirs.fileno())),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, _MARK: duty.folder},
                )
            except OSError as exc:
                ours.close()
                raise BackendError(f"the process that starts workers did not start: {exc}") from exc
        ours.send(marshal.dumps((tuple(duty._replace(left=str(self._left or ""))), self._further())))
        ours.setblocking(False)  # noqa: FBT003 - positional only
        self._socket = ours
        asyncio.get_running_loop().add_reader(ours, self._read)

    def _further(self) -> bytes:
        """Return what else the keeper has to know, marshalled."""
        return b""

    @property
    def keeper(self) -> int:
        """The keeper's process id, once it was started; 0 before and afterwards."""
        return 0 if self._process is None else self._process.pid

    @property
    def mark(self) -> tuple[str, str]:
        """Variable, and its value, that everything which descends from the keeper was started with."""
        return _MARK, self._mark

    def start(self, worker_id: int, settled: int) -> None:
        """Start a worker; see `Starter.start`."""
        self._order("start", worker_id, settled)

    def kill(self, worker_id: int) -> None:
        """End a worker; see `Starter.kill`."""
        self._order("kill", worker_id)

    def _order(self, order: str, *numbers: int) -> None:
        if self._socket is None:
            return
        try:
            self._socket.send(marshal.dumps((order, *numbers)))
        except BlockingIOError:  # hundreds of orders are queued already
            asyncio.get_running_loop().call_later(0.01, self._order, order, *numbers)
        except OSError:
            self._lose()

    def _read(self) -> None:
        while self._socket is not None:
            try:
                message = self._socket.recv(4096)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._lose()
                return
            self._take(*marshal.loads(message))  # noqa: S302 - the other end of our own socket pair

    def _take(self, kind: str, *rest: Any) -> None:  # noqa: ANN401 - as the kind of message has it
        """Take a message of the keeper."""
        if kind == "exit":
            worker_id, code = rest
            self._on_exit(worker_id, code)

    def _lose(self) -> None:
        self._hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(timeout=1)
        end_marked(_MARK, self._mark)  # workers died with their parent, but not what they had started
        self._on_lost(self._why_lost(self._process.returncode if self._process is not None else None))

    def _why_lost(self, code: int | None) -> str:
        """Return why no more workers can be started, from the keeper's exit code if that is known."""
        ended = "is gone" if code is None else describe_exit(code)
        return f"the process that starts and watches workers {ended}; its log is {self._log}"

    def _hang_up(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def aclose(self) -> None:
        """Let the keeper end everything, and wait for it; see `Starter.aclose`."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # unannounced, it writes down more than anybody will ask for
                self._socket.send(marshal.dumps(("end",)))
        self._hang_up()  # its sign to end everything: it does so even if this call is cancelled now
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            await exited(process)


class GuardianStarter(KeeperStarter):
    """Starts workers by fork from a guardian process."""

    _title = "rhapsody-guardian"
    _module = "rhapsody.backends.guardian"


async def exited(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process has ended; after `END_LIMIT_S` it is killed."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    descriptor = os.pidfd_open(process.pid)
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), END_LIMIT_S)
    except TimeoutError:
        process.kill()
        ended.set()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        if ended.is_set():
            process.wait()
