"""The HTTP side of the router: one request to one replica, and what comes back."""

from __future__ import annotations

import errno
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Self

import aiohttp
import msgspec
from aiohttp import hdrs

from rhapsody.errors import RhapsodyError, SpecError
from rhapsody.inference.breaker import Fault
from rhapsody.inference.request import EMBEDDINGS, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rhapsody.inference.replica import Replica

REQUEST_ID = "X-Request-Id"
KEEP_ALIVE_S = 4.0
"""Less than servers keep an idle connection, so that they seldom close one as we use it.
Source: uvicorn, `--timeout-keep-alive`, 5 s unless said, which vLLM's server has too; checked 2026-11."""
CONNECT_S = 10.0
DONE = b"data: [DONE]"
_MOST_WORDS = 64 * 1024
_TAIL = 64
_NOBODY_THERE = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)


class AttemptFailed(RhapsodyError):  # noqa: N818 - it never leaves the router
    """A replica did not answer an attempt; another may.

    Attributes:
        fault: How it failed.
        status: What the server said, 0 where it said nothing.
        body: The server's own words.
        retry_after: Of the server's answer.
    """

    def __init__(self, fault: Fault, why: str, status: int = 0, body: bytes = b"", retry_after: str = "") -> None:
        super().__init__(why)
        self.fault = fault
        self.status = status
        self.body = body
        self.retry_after = retry_after


class Reply:
    """An answer that has begun, with status 2xx, or 4xx.

    Attributes:
        status: Of HTTP.
        content_type: What the server calls it.
        retry_after: Header of that name.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._tail = b""
        self.status = response.status
        self.content_type = response.headers.get(hdrs.CONTENT_TYPE, "application/json")
        self.retry_after = response.headers.get(hdrs.RETRY_AFTER, "")
        self._is_events = self.content_type.startswith("text/event-stream")

    async def whole(self) -> bytes:
        """Return all of it.

        Raises:
            AttemptFailed: The connection broke, or the events ended early.
        """
        async with _faults():
            body = await self._response.read()
        if self._is_events:
            self._tail = body[-_TAIL:]
            self._require_end()
        return body

    async def part(self) -> bytes:
        """Return what came next; empty at the end.

        Raises:
            AttemptFailed: The connection broke, or the events ended early.
        """
        async with _faults():
            part = await self._response.content.readany()
        if self._is_events:
            if part:
                self._tail = (self._tail + part)[-_TAIL:]
            else:
                self._require_end()
        return part

    async def words(self) -> bytes:
        """Return the beginning, for the text of an error; never fails."""
        words = b""
        with suppress(AttemptFailed):
            async with _faults():
                while len(words) < _MOST_WORDS and (part := await self._response.content.readany()):
                    words += part
        return words

    def close(self) -> None:
        """Let go of it. The connection is kept where the answer has ended, else closed: the server stops."""
        self._response.close()

    def _require_end(self) -> None:
        if DONE not in self._tail:
            raise AttemptFailed(Fault.BROKEN, f"the stream ended without `{DONE.decode()}`")


class Client:
    """Sends requests to replicas; use it with `async with`."""

    def __init__(self) -> None:
        self._headers: dict[str, dict[str, str]] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            # The router limits what is in flight.
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=0, keepalive_timeout=KEEP_ALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=[hdrs.ACCEPT_ENCODING, hdrs.USER_AGENT],
            auto_decompress=False,
        )
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def meet(self, replica: Replica) -> None:
        """Learn how a replica is spoken to.

        Raises:
            SpecError: Its key cannot be found.
        """
        headers: dict[str, str] = {hdrs.CONTENT_TYPE: "application/json"}
        if replica.key is not None:
            headers[hdrs.AUTHORIZATION] = f"Bearer {replica.key()}"
        self._headers[replica.uid] = headers

    def forget(self, replica: Replica) -> None:
        """Drop a replica's key."""
        self._headers.pop(replica.uid, None)

    async def send(self, replica: Replica, request: Request, uid: str) -> Reply:
        """Send a request; return the answer as soon as its status is there. Cancelling closes the connection.

        Args:
            replica: Where to.
            request: What.
            uid: Of this attempt; an answer that names another is none.

        Raises:
            AttemptFailed: There is no answer, or the server failed.
        """
        if self._session is None:
            raise SpecError("the client is closed; use it within `async with`")
        known = self._headers.get(replica.uid)
        if known is None:
            raise AttemptFailed(Fault.BROKEN, "the replica was removed")
        headers = {**known, REQUEST_ID: uid}
        async with _faults():
            response = await self._session.post(
                replica.url + request.path, data=request.body, headers=headers, allow_redirects=False
            )
        try:
            return await _checked(response, uid)
        except BaseException:  # cancellation too: the server stops when the connection closes
            response.close()
            raise

    async def probe(self, replica: Replica) -> None:
        """Have a replica answer the smallest request there is.

        Raises:
            AttemptFailed: It did not.
        """
        fields = {"model": replica.model, **({"input": "1"} if replica.probe_path == EMBEDDINGS else _TINY)}
        if "chat" in replica.probe_path:
            fields = {"model": replica.model, "messages": [{"role": "user", "content": "1"}], "max_tokens": 1}
        request = Request.make(replica.probe_path, fields)
        reply = await self.send(replica, request, request.uid)
        try:
            await reply.whole()
        finally:
            reply.close()
        if reply.status >= 400:
            raise AttemptFailed(Fault.SERVER, f"it refuses a probe with status {reply.status}", reply.status)


_TINY = {"prompt": "1", "max_tokens": 1, "temperature": 0}


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the data of each event of a stream, the closing `[DONE]` left out.

    Args:
        parts: Bytes of the stream, cut anywhere.
    """
    rest = b""
    async for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            data = line.strip()
            if data.startswith(b"data:") and data != DONE:
                yield data[5:].lstrip()


def words_of(body: bytes) -> str:
    """Return what a server says in the body of an error: the message of OpenAI's shape, or else the text itself."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:500].decode(errors="replace").strip() or "it gave no reason"
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return str(found)[:2000]


async def _checked(response: aiohttp.ClientResponse, uid: str) -> Reply:
    """Return the reply, unless it is no answer to what was asked."""
    reply = Reply(response)
    named = response.headers.get(REQUEST_ID, uid)
    if named != uid:
        raise AttemptFailed(Fault.SERVER, f"it answered request {named!r} instead of {uid!r}")
    if 200 <= reply.status < 300 or 400 <= reply.status < 500:
        return reply
    body = await reply.words()
    why = f"status {reply.status}: {words_of(body)}"
    raise AttemptFailed(Fault.SERVER, why, reply.status, body, reply.retry_after)


@asynccontextmanager
async def _faults() -> AsyncIterator[None]:
    """Turn what goes wrong on a connection into `AttemptFailed`."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
        # A machine that is slow to connect may only be busy, and a lack of descriptors is our own.
        nobody = isinstance(exc, OSError) and exc.errno in _NOBODY_THERE
        fault = Fault.UNREACHABLE if nobody else Fault.BROKEN
        raise AttemptFailed(fault, f"cannot connect: {exc}") from exc
    except (aiohttp.ClientError, OSError) as exc:
        raise AttemptFailed(Fault.BROKEN, f"the connection broke: {str(exc) or type(exc).__name__}") from exc
