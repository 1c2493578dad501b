"""The lease on a run folder: at most one session writes a run, on whatever hosts the others are.

Files `lease/000001.json`, … in the run folder, one for each session that held it; the highest number holds. A number is
taken by a hard link, which only one can make, on NFS too; the holder beats by replacing its own file. No locks of the
file system are used, and no clock of another host is trusted: who waits for a holder that it cannot look at counts on
its own clock for how long no beat came.

A session uses it so; the callbacks come from the lease's own thread::

    lease = await Lease.take(
        run_dir,
        on_lost=lambda reason: loop.call_soon_threadsafe(stop, reason),
        on_request=lambda drain: loop.call_soon_threadsafe(end, drain),
        say=notify,
    )
    try:
        ...  # nothing of the run is written before, or when `lease.held` is false
    finally:
        lease.release()  # the last thing: run.json says by now how the run ended
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from msgspec.structs import replace

from rhapsody.errors import BackendError, SpecError
from rhapsody.node.files import sync_folder
from rhapsody.node.processes import boot_id, started_at

if TYPE_CHECKING:
    from collections.abc import Callable

BEAT_S = 5.0
STALE_BEATS = 6
STALE_S = STALE_BEATS * BEAT_S
"""A holder that cannot be looked at from here and does not beat for so long is taken for dead."""
LOOK_S = 1.0
"""Somebody who asks the run to end is heard within this time; on NFS with the next beat."""
JOIN_LIMIT_S = 10.0
"""A file system that hangs does not keep a session from ending for longer."""

_NAME = re.compile(r"(\d{6,})\.json")
_FOLDER = "lease"
_STOP = "stop"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems answer that make no hard links: DAOS, and those over object stores."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """What the newest file says: who holds the lease, or was the last to hold it.

    Attributes:
        number: Of its file, from 1.
        host: Name of its host, for people.
        boot: Identity of the running kernel and of the process namespace: where it is the same, `pid` says something.
        pid: Of its process.
        started: When the process started, in clock ticks since boot: with the pid it names a process for good.
        token: Random, new for each session.
        beat: Counts up.
        time_ns: Of the last beat, on its own host's clock.
        since_ns: When it took the lease, on its own host's clock.
        beat_s: Seconds between beats.
        released: It ended, and said so.
    """

    number: int
    host: str
    boot: str
    pid: int
    started: int
    token: str
    since_ns: int
    time_ns: int
    beat: int = 0
    beat_s: float = BEAT_S
    released: bool = False

    @property
    def alive(self) -> bool | None:
        """Whether its process lives; None: that cannot be told from here."""
        if self.released:
            return False
        if self.boot != local_boot():
            return None
        return started_at(self.pid) == self.started

    @property
    def beat_age_s(self) -> float:
        """Seconds since its last beat, as far as the clocks of two hosts agree."""
        return (time.time_ns() - self.time_ns) / 1e9

    @property
    def stale_s(self) -> float:
        """Seconds without a beat after which it is taken for dead."""
        return STALE_BEATS * self.beat_s

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_ns / 1e9))
        return f"process {self.pid} on {self.host}, since {since}"


class StopRequest(msgspec.Struct, frozen=True):
    """What `rhapsody cancel` leaves for the holder.

    Attributes:
        token: The holder that is meant.
        drain: What runs may end.
    """

    token: str
    drain: bool


def read_holder(run_dir: Path) -> Holder | None:
    """Return who holds the lease on a run, or was the last to hold it; None if nobody ever did.

    Raises:
        SpecError: It cannot be read; the text names the file.
    """
    newest = _newest(run_dir / _FOLDER)
    return newest.holder if newest is not None else None


def request_stop(run_dir: Path, holder: Holder, *, drain: bool) -> None:
    """Ask a holder on whatever host to end; it hears of it within a beat.

    Args:
        run_dir: The run folder.
        holder: Who is meant; those after it will not take it for theirs.
        drain: What runs may end, nothing new starts.

    Raises:
        SpecError: The request cannot be written.
    """
    folder = run_dir / _FOLDER
    private = folder / f"{secrets.token_hex(8)}.part"
    try:
        _write(private, msgspec.json.encode(StopRequest(holder.token, drain)))
        private.rename(folder / _STOP)
    except OSError as exc:
        raise SpecError(f"cannot write {folder / _STOP}: {exc.strerror}; only the run's owner may end it") from exc


def read_stop_request(run_dir: Path, holder: Holder) -> StopRequest | None:
    """Return what this holder was asked for; None: nothing."""
    try:
        request = msgspec.json.decode((run_dir / _FOLDER / _STOP).read_bytes(), type=StopRequest)
    except (OSError, msgspec.DecodeError):  # most often there is none
        return None
    return request if request.token == holder.token else None


class Lease:
    """A lease that was taken. `take` makes it; from then on a thread beats, and looks who wants what."""

    def __init__(
        self,
        folder: Path,
        own: Holder,
        on_lost: Callable[[str], object],
        on_request: Callable[[bool], object],
        say: Callable[[str], object],
    ) -> None:
        self._folder = folder
        self._own = own
        self._on_lost = on_lost
        self._on_request = on_request
        self._say = say
        self._held = True
        self._in_trouble = False
        self._heard: StopRequest | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rhapsody-lease", daemon=True)

    @classmethod
    async def take(
        cls,
        run_dir: Path,
        on_lost: Callable[[str], object],
        on_request: Callable[[bool], object],
        say: Callable[[str], object],
        *,
        beat_s: float = BEAT_S,
    ) -> Lease:
        """Take the lease on a run; where nobody can tell whether its holder lives, wait for a beat of it.

        After an error or cancellation nothing is held.

        Args:
            run_dir: The run folder.
            on_lost: Called once from the lease's thread, with the reason, when another session took the run.
            on_request: Called from there when somebody asks the run to end: with True when what runs may end. At most
                once for each: after a request to drain one to stop may come.
            say: Called with one line for the user, from there too.
            beat_s: Seconds between beats.

        Raises:
            BackendError: Another session holds the run; the text says which, and how to look at it and end it.
            SpecError: The folder cannot be written.
        """
        folder = run_dir / _FOLDER
        private = folder / f"{secrets.token_hex(8)}.part"
        own = _describe(beat_s)
        try:
            try:
                folder.mkdir(mode=0o700, exist_ok=True)
                _write(private, msgspec.json.encode(own))  # first: so a client of NFS looks at the folder afresh
                newest = _newest(folder)
                if newest is not None:
                    await _outlive(newest, run_dir, say)
                now_ns = time.time_ns()
                own = replace(own, number=1 + (newest.number if newest else 0), since_ns=now_ns, time_ns=now_ns)
                _write(private, msgspec.json.encode(own))
                won = _claim(private, folder / _name(own.number))
            finally:
                private.unlink(missing_ok=True)
        except OSError as exc:
            raise SpecError(f"cannot take the lease {folder}: {exc.strerror}; see whether you may write there") from exc
        if not won:
            raise _refusal(run_dir, _newest(folder), "took it at the same time")
        with suppress(OSError):  # it is taken all the same
            sync_folder(folder)
        lease = cls(folder, own, on_lost, on_request, say)
        lease._thread.start()
        return lease

    @property
    def held(self) -> bool:
        """Whether the run is still this session's."""
        return self._held

    def release(self) -> None:
        """Say that the session has ended: others may go on with the run at once. May be called again."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._thread.join(JOIN_LIMIT_S)
        if not self._held:
            return
        self._held = False
        if self._thread.is_alive():
            self._say(f"the file system of {self._folder} hangs: the lease on the run is not given back")
            return
        try:
            self._write_own(released=True)
            if self._heard is not None:
                (self._folder / _STOP).unlink(missing_ok=True)
        except OSError as exc:
            self._say(f"the lease on the run is not given back: cannot write {self._folder}: {exc.strerror}")

    def _run(self) -> None:
        beat_s = self._own.beat_s
        next_beat = time.monotonic() + beat_s
        while self._held and not self._ending.wait(min(LOOK_S, beat_s)):
            if time.monotonic() >= next_beat:
                self.beat()
                next_beat = time.monotonic() + beat_s
            else:
                self._look_for_request()

    def beat(self) -> None:
        """Beat once, and look who wants what; called by the lease's thread."""
        try:
            self._write_own()  # first: so a client of NFS looks at the folder afresh
        except OSError as exc:
            self._tell_trouble(exc)
        else:
            self._in_trouble = False
        try:
            newest = _newest(self._folder)
        except SpecError:
            return  # it was told of, or is soon: the next beat will not work either
        if newest is not None and newest.number > self._own.number:
            self._held = False
            who = newest.holder or "another session"
            self._on_lost(f"the run was taken over by {who}: this one did not beat for {self._own.stale_s:g} s")
            return
        self._look_for_request()

    def _look_for_request(self) -> None:
        request = read_stop_request(self._folder.parent, self._own)
        if request is None or request == self._heard or (self._heard is not None and not self._heard.drain):
            return
        self._heard = request
        self._on_request(request.drain)

    def _write_own(self, *, released: bool = False) -> None:
        """Replace the lease's own file, whole or not at all."""
        self._own = replace(self._own, beat=self._own.beat + 1, time_ns=time.time_ns(), released=released)
        private = self._folder / f"{self._own.token}.part"
        try:
            _write(private, msgspec.json.encode(self._own))
            private.rename(self._folder / _name(self._own.number))
        except OSError:
            with suppress(OSError):
                private.unlink()
            raise

    def _tell_trouble(self, exc: OSError) -> None:
        if not self._in_trouble:
            self._in_trouble = True
            self._say(
                f"cannot write {self._folder}: {exc.strerror}; trying again every {self._own.beat_s:g} s:"
                f" after {self._own.stale_s:g} s others may take the run over"
            )


class _Newest(NamedTuple):
    """The file with the highest number."""

    number: int
    content: bytes
    holder: Holder | None
    """None where the content is none of ours: half written, on a file system without hard links."""


def _newest(folder: Path) -> _Newest | None:
    """Return the newest file as it is now: it is opened anew each time, which is when a client of NFS looks."""
    try:
        numbers = [int(match[1]) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name))]
        if not numbers:
            return None
        content = (folder / _name(max(numbers))).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise SpecError(f"cannot read the lease {folder}: {exc.strerror}; see whether the run is yours") from exc
    try:
        holder = msgspec.json.decode(content, type=Holder)
    except msgspec.DecodeError:
        holder = None
    return _Newest(max(numbers), content, holder)


async def _outlive(newest: _Newest, run_dir: Path, say: Callable[[str], object]) -> None:
    """Return once it is sure that the holder is gone.

    Raises:
        BackendError: It lives.
    """
    alive = newest.holder.alive if newest.holder is not None else None
    if alive:
        raise _refusal(run_dir, newest, "it runs")
    if alive is None:
        await _watch(newest, run_dir, say)


async def _watch(newest: _Newest, run_dir: Path, say: Callable[[str], object]) -> None:
    """Wait for a beat, for as long as a living holder could leave one out."""
    holder = newest.holder
    stale_s, beat_s = (holder.stale_s, holder.beat_s) if holder is not None else (STALE_S, BEAT_S)
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + stale_s))
    who = holder or "a session that did not say which"
    say(f"the run was held by {who}; whether that still lives cannot be seen from here: waiting for it until {until}")
    deadline = time.monotonic() + stale_s
    while time.monotonic() < deadline:
        await asyncio.sleep(beat_s / 4)
        now = _newest(run_dir / _FOLDER)
        if now is None or now.content == newest.content:
            continue
        if now.number == newest.number and now.holder is not None and now.holder.released:
            return
        raise _refusal(run_dir, now, "it beats")


def _refusal(run_dir: Path, newest: _Newest | None, why: str) -> BackendError:
    who = (newest.holder if newest is not None else None) or "another session"
    return BackendError(
        f"the run {run_dir.name} is held by {who}: {why}, and only one session may write a run;\n"
        f"look at it: rhapsody status {run_dir}\n"
        f"end it:     rhapsody cancel {run_dir}"
    )


def _describe(beat_s: float) -> Holder:
    now_ns = time.time_ns()
    return Holder(
        number=0,
        host=socket.gethostname(),
        boot=local_boot(),
        pid=os.getpid(),
        started=started_at(os.getpid()) or 0,
        token=secrets.token_hex(16),
        since_ns=now_ns,
        time_ns=now_ns,
        beat_s=beat_s,
    )


def local_boot() -> str:
    """Return what is the same for two processes that see each other under the same pids, and for no others.

    The name of the host is not: pods and virtual machines share names, and a container has pids of its own.
    """
    return f"{boot_id()} {Path('/proc/self/ns/pid').readlink()}"


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _claim(private: Path, target: Path) -> bool:
    """Give a file its number; return whether nobody else had."""
    try:
        os.link(private, target)
    except OSError as exc:
        if exc.errno in _NO_LINKS:
            return _create(target, private.read_bytes())
        if not isinstance(exc, FileExistsError):
            raise
    # NFS may say that it exists when the answer to our own link was lost. Source: open(2), on O_EXCL.
    return private.stat().st_nlink == 2


def _create(target: Path, content: bytes) -> bool:
    """Make a file where there are no hard links: exclusive too, but others may see it half written."""
    try:
        _write(target, content, os.O_EXCL)
    except FileExistsError:
        return False
    return True


def _write(path: Path, content: bytes, how: int = os.O_TRUNC) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
