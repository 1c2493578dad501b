"""How it is seen that a replica of a service is ready, and later that it is still well.

A probe asks once. It returns when the answer was good, and raises `NotReadyError` with the reason when it was not.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import socket
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, Request, build_opener

from typing_extensions import override

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_SHOWN_CHARS = 300
_LOG_BYTES = 1 << 20


class NotReadyError(Exception):
    """The answer was none, or not a good one; the text says what came instead."""


class Subject(NamedTuple):
    """What a probe looks at: one replica.

    Attributes:
        host: Where it runs, as the session reaches it; empty where it does not listen.
        port: Where it listens; 0 where it does not.
        url: Its address; empty where it does not listen.
        logs: What it writes to standard output and standard error.
        secrets: As the service was given them.
        timeout_s: Longest that one answer may take.
    """

    host: str
    port: int
    url: str
    logs: tuple[Path, ...]
    secrets: Mapping[str, str]
    timeout_s: float


class Probe(Protocol):
    """Asks a replica once."""

    async def ask(self, subject: Subject) -> None:
        """Return when the answer is good.

        Raises:
            NotReadyError: It is not, or none came.
        """


@dataclass(frozen=True)
class HttpProbe(Probe):
    """A request of HTTP, answered with the status that is expected.

    Attributes:
        path: Of the URL.
        body: Sent as JSON with POST; None asks with GET.
        status: Expected.
        key: Name of the secret that is shown as bearer token; None shows none.
    """

    path: str = "/"
    body: Mapping[str, Any] | None = None
    status: int = 200
    key: str | None = None

    @override
    async def ask(self, subject: Subject) -> None:
        await asyncio.to_thread(self._ask, subject)

    def _ask(self, subject: Subject) -> None:
        request = Request(f"http://{authority(subject.host, subject.port)}{self.path}")
        if self.body is not None:
            request.data = json.dumps(self.body).encode()
            request.add_header("Content-Type", "application/json")
        if self.key is not None:
            request.add_header("Authorization", f"Bearer {subject.secrets[self.key]}")
        opener = build_opener(ProxyHandler({}))  # proxies are for what is outside
        try:
            with opener.open(request, timeout=subject.timeout_s) as answer:
                status, words = answer.status, b""
        except HTTPError as exc:
            status, words = exc.code, exc.read(_SHOWN_CHARS)
        except (URLError, HTTPException, OSError) as exc:
            raise NotReadyError(f"{self.path} does not answer: {getattr(exc, 'reason', None) or exc}") from exc
        if status != self.status:
            said = words.decode(errors="replace").strip()
            raise NotReadyError(f"{self.path} answers {status}, not {self.status}{f': {said}' if said else ''}")


@dataclass(frozen=True)
class PortProbe(Probe):
    """Somebody accepts connections on the port: less than an answer, but all that can be known of any service."""

    @override
    async def ask(self, subject: Subject) -> None:
        try:
            async with asyncio.timeout(subject.timeout_s):
                _, writer = await asyncio.open_connection(subject.host, subject.port, family=socket.AF_UNSPEC)
        except (OSError, TimeoutError) as exc:
            raise NotReadyError(f"port {subject.port} on {subject.host} accepts no connection") from exc
        writer.close()


@dataclass(frozen=True)
class StartedProbe(Probe):
    """Its processes are there, all ranks of them: they are before anything is asked, so that nothing is."""

    @override
    async def ask(self, subject: Subject) -> None:
        pass


@dataclass(frozen=True)
class LogProbe(Probe):
    """A line of what it writes matches; within the last MiB of each of its outputs.

    Attributes:
        pattern: Searched for in each line, a regular expression.
    """

    pattern: str

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as exc:
            raise SpecError(f"LogProbe({self.pattern!r}) is no regular expression: {exc}") from exc

    @override
    async def ask(self, subject: Subject) -> None:
        wanted = re.compile(self.pattern)
        for path in subject.logs:
            lines = tail_of(path, _LOG_BYTES).splitlines()
            if any(wanted.search(line) for line in lines):
                return
        raise NotReadyError(f"no line of its output matches {self.pattern!r} yet")


@dataclass(frozen=True)
class CallProbe(Probe):
    """A function of the user's, called with the `Subject`: good is True or None.

    Attributes:
        function: An ordinary one runs in a thread, one with `async def` on the session's loop.
    """

    function: Callable[[Subject], Any]

    @override
    async def ask(self, subject: Subject) -> None:
        name = getattr(self.function, "__qualname__", repr(self.function))
        try:
            async with asyncio.timeout(subject.timeout_s):
                if inspect.iscoroutinefunction(self.function):
                    found = await self.function(subject)
                else:
                    found = await asyncio.to_thread(self.function, subject)
        except TimeoutError as exc:
            raise NotReadyError(f"{name}() did not return within {subject.timeout_s:g} s") from exc
        except Exception as exc:  # it is the user's, and may raise anything
            raise NotReadyError(f"{name}() raised {type(exc).__name__}: {exc}") from exc
        if found is not None and found is not True:
            raise NotReadyError(f"{name}() returned {found!r}")


def probe_of(what: object, name: str) -> Probe:
    """Return a probe from what users give: a probe, a function, a path such as `/health`, or a pattern for log lines.

    Raises:
        SpecError: It is none of them.
    """
    if isinstance(what, HttpProbe | PortProbe | StartedProbe | LogProbe | CallProbe):
        return what
    if isinstance(what, re.Pattern):
        return LogProbe(what.pattern)
    if isinstance(what, str) and what.startswith("/"):
        return HttpProbe(what)
    if callable(what):
        return CallProbe(what)
    raise SpecError(
        f"{name}={what!r} is no probe; give a path such as '/health', re.compile(…) for a log line, a function, or one"
        " of HttpProbe, PortProbe, LogProbe"
    )


def authority(host: str, port: int) -> str:
    """Return host and port as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def tail_of(path: Path, size: int) -> str:
    """Return the last bytes of a file as text; nothing where it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
