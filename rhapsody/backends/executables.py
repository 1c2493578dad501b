"""Running an executable inside a worker: start, watch, keep the tails of its output, end it with all its children."""

from __future__ import annotations

import contextlib
import marshal
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rhapsody.backends import wire
from rhapsody.backends.tail import TAIL_BYTES, Tail
from rhapsody.node.processes import children, describe_exit, end_children

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


_READS_IN_A_ROW = 64
"""More than a pipe holds; then it is time to look at orders and limits again."""


class Control(Protocol):
    """The worker's connection, over which the order to end a task comes."""

    @property
    def connection(self) -> socket.socket:
        """The socket, to wait for."""

    def receive(self, *, wait: bool = True) -> tuple[Any, ...] | None:
        """Return the next message, or None."""


class _Watch:
    """One running executable: its output, its end, and orders to end it."""

    def __init__(self, pid: int, control: Control, extra: dict[str, Any]) -> None:
        self._pid = pid
        self._name = extra["uid"], extra["attempt"]
        self._passes_warnings_on = extra.get("passes_warnings_on", False)
        self._control = control
        self._grace_s: float = extra["grace_s"]
        timeout_s = extra.get("timeout_s")
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.cause = ""
        self._kill_at: float | None = None
        self._tails: dict[int, Tail] = {}
        self._poll = select.poll()
        self._ended = os.pidfd_open(pid)
        self._poll.register(self._ended, select.POLLIN)
        self._poll.register(control.connection, select.POLLIN)

    def follow(self, descriptor: int) -> Tail:
        """Keep the last of what comes through a pipe from now on."""
        tail = self._tails[descriptor] = Tail()
        self._poll.register(descriptor, select.POLLIN)
        return tail

    def until_end(self) -> int:
        """Return the exit code when the process has ended, by itself or on an order, and all that it started."""
        try:
            while not self._step():
                pass
        finally:
            self._end_group(signal.SIGKILL)
            _, status = os.waitpid(self._pid, 0)
            os.close(self._ended)
        for descriptor, tail in self._tails.items():
            self._read(descriptor, tail)
        return os.waitstatus_to_exitcode(status)

    def _step(self) -> bool:
        ready = {descriptor for descriptor, _ in self._poll.poll(self._wait_ms())}
        for descriptor in ready & self._tails.keys():
            if not self._read(descriptor, self._tails[descriptor]):
                self._poll.unregister(descriptor)
        if self._control.connection.fileno() in ready and self._ended not in ready:  # else orders come too late
            self._obey()
        now = time.monotonic()
        if self._deadline is not None and now >= self._deadline and not self.cause:
            self._begin_end("timeout")
        if self._kill_at is not None and now >= self._kill_at:
            self._end_group(signal.SIGKILL)
            self._kill_at = now + 1.0
        return self._ended in ready

    def _wait_ms(self) -> float | None:
        moments = [moment for moment in (None if self.cause else self._deadline, self._kill_at) if moment is not None]
        return max(0.0, min(moments) - time.monotonic()) * 1000 + 1 if moments else None

    def _obey(self) -> None:
        try:
            while (message := self._control.receive(wait=False)) is not None:
                if message[0] == "end":
                    self._begin_end(message[1])
                elif message[0] == "warn" and message[1:] == self._name:  # not one that came too late for another
                    self._warn()
        except ConnectionError:
            self._end_group(signal.SIGKILL)
            raise

    def _begin_end(self, cause: str) -> None:
        if not self.cause:
            self.cause = cause
            self._kill_at = time.monotonic() + self._grace_s
            self._end_group(signal.SIGTERM)

    def _warn(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self._passes_warnings_on:
                # To its ranks, each of which is in a process group of its own. Source: mpirun(1) of Open MPI 4.1 and
                # 5.0; tried with Open MPI 4.1.4 and MPICH 4.0.2: each rank gets it once.
                os.kill(self._pid, signal.SIGUSR1)
            else:
                os.killpg(self._pid, signal.SIGUSR1)

    def _end_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)

    @staticmethod
    def _read(descriptor: int, tail: Tail) -> bool:
        """Read what is there, but not for ever when it comes faster than we read; return whether more may come."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(_READS_IN_A_ROW):
                if not (data := os.read(descriptor, 1 << 16)):
                    return False
                tail.add(data)
        return True


def run(extra: dict[str, Any], control: Control) -> tuple[int, bytes]:
    """Run an executable to its end; return a record's kind and bytes.

    Args:
        extra: `argv`, `uid`, `attempt` and `grace_s`; perhaps `cpus`, `env`, `cwd`, `timeout_s`, `name`, `capture`
            (path without ending), `passes_warnings_on` (it is a launcher that sends SIGUSR1 on to what it started).
        control: Where an order may come from: `("end", cause)`, or `("warn", uid, attempt)` for SIGUSR1.

    Raises:
        OSError: The executable could not be started.
    """
    before = children()
    with contextlib.ExitStack() as stack:
        if capture := extra.get("capture"):
            files = [stack.enter_context(Path(capture + ending).open("wb")) for ending in (".out", ".err")]
            watch = _Watch(_start(extra, *(file.fileno() for file in files)), control, extra)
            code = watch.until_end()
            stdio = captured_tails(capture)
        else:
            out, err = _pipe(stack), _pipe(stack)
            try:
                pid = _start(extra, out[1], err[1])
            finally:
                os.close(out[1])
                os.close(err[1])
            watch = _Watch(pid, control, extra)
            tails = watch.follow(out[0]), watch.follow(err[0])
            code = watch.until_end()
            stdio = tails[0].text(), tails[1].text()
    end_children(keep=before)
    return wire.RICH, marshal.dumps(_outcome(extra, code, watch.cause, stdio))


def _pipe(stack: contextlib.ExitStack) -> tuple[int, int]:
    """Return a pipe: its end to read, not blocking and closed with the stack, and its end to write."""
    reading, writing = os.pipe()
    stack.callback(os.close, reading)
    os.set_blocking(reading, False)
    return reading, writing


def _start(extra: dict[str, Any], out: int, err: int) -> int:
    """Start the executable as the leader of a session of its own; return its process id."""
    argv = extra["argv"]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, out, 1),
        (os.POSIX_SPAWN_DUP2, err, 2),
    ]
    try:
        with surroundings({name: extra.get(name) for name in ("cpus", "env", "cwd")}):
            return os.posix_spawnp(
                argv[0],
                argv,
                os.environb,
                file_actions=actions,
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGUSR1],  # ignored here, programs expect them
            )
    except OSError as exc:
        where = f" in {extra['cwd']}" if extra.get("cwd") else ""
        raise LaunchError(f"{argv[0]} did not start{where}: {exc.strerror}") from exc


class LaunchError(Exception):
    """The executable could not be started."""


def _outcome(extra: dict[str, Any], code: int, cause: str, stdio: tuple[str, str]) -> dict[str, Any]:
    out, err = stdio
    outcome: dict[str, Any] = {"stdout": out, "stderr": err, "exit_code": code}
    name = extra["argv"][0] if "name" not in extra else extra["name"]
    if cause:
        outcome |= {"cause": cause, "message": _ended_text(extra, name, cause)}
    elif code:
        last = _last_words(err) or _last_words(out)
        said = f"; last line it wrote: {last}" if last else ""
        outcome |= {"cause": "signal" if code < 0 else "exit_code", "message": f"{name} {describe_exit(code)}{said}"}
    else:
        outcome |= {"completed": extra.get("cwd") or str(Path.cwd())}
    return outcome


def _last_words(text: str) -> str:
    """Return the last line that says something; launchers frame their messages with dashes."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    return next((line[:500] for line in lines if any(map(str.isalnum, line))), "")


def _ended_text(extra: dict[str, Any], name: str, cause: str) -> str:
    if cause == "timeout":
        return f"{name} ran longer than timeout_s={extra['timeout_s']:g} and was ended"
    return f"{name} was cancelled while it ran"


def captured_tails(capture: str) -> tuple[str, str]:
    """Return the tails of the files that whole outputs went to."""
    return _last_of(capture + ".out"), _last_of(capture + ".err")


def _last_of(path: str) -> str:
    with Path(path).open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        return file.read().decode(errors="replace")


@contextlib.contextmanager
def _affinity(cpus: list[int] | None) -> Iterator[None]:
    """Bind this process to CPUs meanwhile; what it starts inherits them."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def private_folder(path: str | None) -> Iterator[None]:
    """Make a folder for one run, and remove it with all that the run left there."""
    if path is None:
        yield
        return
    Path(path).mkdir(mode=0o700, parents=True)
    try:
        yield
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def surroundings(extra: dict[str, Any]) -> Iterator[None]:
    """Give a function its CPUs, environment, folder and output files, and restore the worker's own afterwards."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_affinity(extra.get("cpus")))
        if env := extra.get("env"):
            before = {name: os.environ.get(name) for name in env}
            stack.callback(_restore, before)
            os.environ.update(env)
        if cwd := extra.get("cwd"):
            stack.callback(os.chdir, Path.cwd())
            os.chdir(cwd)
        if capture := extra.get("capture"):
            stack.enter_context(_captured(capture))
        yield


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _captured(path: str) -> Iterator[None]:
    """Send what is printed, by Python or below it, into two files."""
    with contextlib.ExitStack() as stack:
        for number, ending, name in ((1, ".out", "stdout"), (2, ".err", "stderr")):
            file = stack.enter_context(Path(path + ending).open("w", buffering=1))
            saved = os.dup(number)
            stack.callback(os.close, saved)
            stack.callback(os.dup2, saved, number)
            os.dup2(file.fileno(), number)
            stack.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, file)
        yield
