"""Command lines that the `ssh` of some node hands to this one."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import shlex
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.node.connection import ConnectionLost
from rhapsody.node.files import write_whole
from rhapsody.node.pipes import Pipe
from rhapsody.node.processes import descendants, started_at
from rhapsody.node.protocol import (
    CHUNK,
    WINDOW,
    Kind,
    ProtocolError,
    closed,
    exit_frame,
    parse_closed,
    parse_command,
    parse_taken,
    taken,
)

OF_THE_NODE = (b"RHAPSODY_NODE_", b"RHAPSODY_HOSTFILE")
"""How variables begin that say something of the node itself: a caller's say something of the caller's."""

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rhapsody.node.children import Child, Nursery
    from rhapsody.node.connection import Connection

HANG_UP_GRACE_S = 5.0
"""A command whose `ssh` is gone gets SIGHUP, and SIGKILL so much later."""
_LOOK_S = 0.1
_LONGEST_ARGUMENT = 100_000  # Source: execve(2), MAX_ARG_STRLEN: 128 KiB
_DESCRIPTORS_EACH = 4
_DESCRIPTORS_SPARED = 64


class Limits(NamedTuple):
    """How much may be at a time.

    Attributes:
        commands: Command lines.
        descriptors: What commands find as their own limit of open files.
    """

    commands: int
    descriptors: int

    def give_back(self) -> None:
        """Set this process's limit of open files to what commands find."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self.descriptors, hard))


def raise_limits(commands: int, nodes: int) -> Limits:
    """Raise this process's limit of open files as far as it goes; return what fits beside a connection to each node."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return Limits(min(commands, max(1, (hard - nodes - _DESCRIPTORS_SPARED) // _DESCRIPTORS_EACH)), soft)


class Commands:
    """Runs command lines for those who ask.

    Args:
        nursery: Starts the processes.
        env: What they find in their environment.
        limits: How many there can be.
        scripts: Folder for those that are too long for an argument.
        say: Tells the user.
    """

    def __init__(
        self,
        nursery: Nursery,
        env: Mapping[bytes, bytes],
        limits: Limits,
        scripts: Path,
        say: Callable[[str], object],
    ) -> None:
        self._scripts = scripts
        self._nursery = nursery
        self._env = env
        self._limits = limits
        self._say = say
        self._count = 0
        self._was_full = False

    async def serve(self, connection: Connection, payload: bytes) -> None:
        """Run a command line and tell how it ends; afterwards only what it left in the background may go on.

        More than fit are refused and do not wait: they might be what those that run wait for.

        Raises:
            ProtocolError: The other side does what it should not.
        """
        if self._count >= self._limits.commands:
            if not self._was_full:
                self._was_full = True
                self._say(f"{self._count} commands run here: more are refused; the limit can be set by --commands")
            connection.send(Kind.REFUSED, f"it runs {self._count} commands, which is its limit (--commands)".encode())
            return
        self._count += 1
        try:
            await self._run(connection, payload)
        finally:
            self._count -= 1

    async def _run(self, connection: Connection, payload: bytes) -> None:
        command, directory, passed = parse_command(payload)
        if len(command) <= _LONGEST_ARGUMENT:
            await self._exchange(connection, command, directory, passed)
            return
        script = self._scripts / f"command-{secrets.token_hex(8)}"
        try:
            write_whole(script, command)
            await self._exchange(connection, os.fsencode(f". {shlex.quote(str(script))}"), directory, passed)
        finally:
            script.unlink(missing_ok=True)

    async def _exchange(
        self, connection: Connection, command: bytes, directory: bytes, passed: dict[bytes, bytes]
    ) -> None:
        limit = b"ulimit -S -n %d\n" % self._limits.descriptors  # ours is higher than programs expect
        streams = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
        (theirs_in, stdin), (stdout, theirs_out), (stderr, theirs_err) = streams
        pipes = {Kind.STDIN: Pipe(stdin), Kind.STDOUT: Pipe(stdout), Kind.STDERR: Pipe(stderr)}
        try:
            child = self._nursery.start(
                ["sh", "-c", limit + command],
                {**self._env, **{name: value for name, value in passed.items() if not name.startswith(OF_THE_NODE)}},
                stdin=theirs_in,
                stdout=theirs_out,
                stderr=theirs_err,
                cwd=directory or None,
            )
        except OSError as exc:
            for pipe in pipes.values():
                pipe.close()
            where = f" in {os.fsdecode(directory)}" if directory else ""
            connection.send(Kind.REFUSED, f"cannot start a shell{where}: {exc.strerror}".encode())
            return
        finally:
            for descriptor in (theirs_in, theirs_out, theirs_err):
                os.close(descriptor)
        await _Exchange(connection, child, pipes).run()


class _Exchange:
    """Passes the streams of one command both ways."""

    def __init__(self, connection: Connection, child: Child, pipes: Mapping[Kind, Pipe]) -> None:
        self._connection = connection
        self._child = child
        self._pipes = pipes
        self._room = {Kind.STDOUT: WINDOW, Kind.STDERR: WINDOW}
        """Bytes of each output that the other side still takes."""
        self._more_room = {Kind.STDOUT: asyncio.Event(), Kind.STDERR: asyncio.Event()}
        self._pumps: dict[Kind, asyncio.Task[None]] = {}
        self._input = bytearray()
        self._passed_on = 0
        """Bytes of input that were written to the command, and the other side was not told."""
        self._input_ended = False
        self._more_input = asyncio.Event()

    async def run(self) -> None:
        """Return when the command has ended and the other side knows, or is gone."""
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(self._hear_all()), group.create_task(self._feed())]
                self._pumps = {stream: group.create_task(self._pump(stream)) for stream in self._room}
                await asyncio.wait({self._child.ended})
                await asyncio.wait(self._pumps.values())
                self._connection.send_frames(exit_frame(self._child.ended.result()))
                for task in others:
                    task.cancel()
        except* ConnectionLost:
            pass
        except* ProtocolError as errors:
            raise errors.exceptions[0] from None
        finally:
            for pipe in self._pipes.values():
                pipe.close()
            await self._hang_up()

    async def _hear_all(self) -> None:
        while True:
            kind, payload = await self._connection.receive()
            if kind == Kind.STDIN:
                self._take_input(payload)
            elif kind == Kind.TAKEN:
                stream, count = parse_taken(payload)
                self._room[_output(stream)] += count
                self._more_room[stream].set()
            elif kind == Kind.SIGNAL and payload:
                self._signal(payload[0])
            elif kind == Kind.CLOSED:
                self._pumps[_output(parse_closed(payload))].cancel()
            else:
                raise ProtocolError(f"a frame {kind.name}, which an agent does not expect here")

    def _signal(self, number: int) -> None:
        if not self._child.ended.done():
            self._child.send_signal(number)
            return
        for pump in self._pumps.values():  # what is still there is in the background and keeps the outputs open
            pump.cancel()

    def _take_input(self, payload: bytes) -> None:
        if len(self._input) + len(payload) > WINDOW:
            raise ProtocolError("more input than there is room for")
        self._input_ended = not payload
        if payload and not self._input:  # most often there is room, and nobody has to be woken
            count = self._pipes[Kind.STDIN].write_now(payload)
            self._tell_room(count)
            payload = payload[count:]
            if not payload:
                return
        self._input += payload
        self._more_input.set()

    def _tell_room(self, count: int) -> None:
        """Take note of input that was written to the command; tell the other side, but not each time."""
        self._passed_on += count
        if self._passed_on >= CHUNK:
            self._connection.send_frames(taken(Kind.STDIN, self._passed_on))
            self._passed_on = 0

    async def _feed(self) -> None:
        """Write the other side's input to the command."""
        stdin = self._pipes[Kind.STDIN]
        while True:
            while self._input:
                try:
                    count = await stdin.write_some(self._input)
                except BrokenPipeError:
                    stdin.close()
                    self._connection.send_frames(closed(Kind.STDIN))
                    return
                del self._input[:count]
                self._tell_room(count)
            if self._input_ended:
                stdin.close()
                return
            self._more_input.clear()
            await self._more_input.wait()

    async def _pump(self, stream: Kind) -> None:
        """Send one output of the command to the other side."""
        pipe = self._pipes[stream]
        try:
            while True:
                while not self._room[stream]:
                    self._more_room[stream].clear()
                    await self._more_room[stream].wait()
                data = await pipe.read_some(min(CHUNK, self._room[stream]))
                if not data:
                    return
                self._room[stream] -= len(data)
                self._connection.send(stream, data)
        finally:
            pipe.close()

    async def _hang_up(self) -> None:
        """End a command that nobody waits for any more, and all below it.

        The daemons of MPI launchers give each rank a process group of its own, and die of SIGHUP or ignore it.
        """
        if self._child.ended.done():
            return
        below = {pid: started_at(pid) for pid in descendants(self._child.popen.pid)}
        self._child.send_signal(signal.SIGHUP)
        self._child.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + HANG_UP_GRACE_S
        while left := [pid for pid, started in below.items() if started and started_at(pid) == started]:
            if time.monotonic() >= deadline:
                self._child.send_signal(signal.SIGKILL)
                for pid in left:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                break
            await asyncio.sleep(_LOOK_S)
        await asyncio.wait({self._child.ended})


def _output(stream: Kind) -> Kind:
    if stream not in {Kind.STDOUT, Kind.STDERR}:
        raise ProtocolError(f"{stream.name} is no output")
    return stream
