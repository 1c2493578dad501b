"""A small server with OpenAI's API on a free port, which fails as tests want it to."""

from __future__ import annotations

import asyncio
import hashlib
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from rhapsody.inference.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rhapsody.inference.replica import KeySource

MODEL = "meta/small"


def nonce(prompt: str) -> str:
    """What an answer to a prompt must hold."""
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


class ModelServer:
    """Answers with the nonce of the prompt.

    Attributes:
        uid: Of its replica.
        behave: Called first for every request but probes; what it returns is the answer, None lets the usual one come.
        prompts: That it has got, in order.
        ids: The X-Request-Id of each.
        running: Requests that it works on.
        aborted: Requests whose client went away.
        most_running: At a time.
        probes: How many it has answered.
    """

    def __init__(self, uid: str = "r1", model: str = MODEL) -> None:
        self.uid = uid
        self.model = model
        self.behave: Callable[[web.Request], Awaitable[web.StreamResponse | None]] | None = None
        self.prompts: list[str] = []
        self.ids: list[str] = []
        self.keys: list[str] = []
        self.running = 0
        self.aborted = 0
        self.most_running = 0
        self.probes = 0
        self.port = 0
        self._runner: web.AppRunner | None = None
        self._transports: set[asyncio.BaseTransport] = set()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.kill()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        application = web.Application()
        application.router.add_post("/v1/{kind:.*}", self._answer)
        self._runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=0.01, keepalive_timeout=60
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, backlog=4096)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def kill(self) -> None:
        """Break all connections and listen no more."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        for site in list(runner.sites):
            await site.stop()
        for transport in list(self._transports):
            with suppress(AttributeError):
                transport.abort()  # type: ignore[attr-defined]
        await runner.cleanup()

    def replica(self, key: KeySource | None = None) -> Replica:
        """Return how routers know it."""
        return Replica(self.uid, f"http://127.0.0.1:{self.port}", self.model, key)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.transport is not None:
            self._transports.add(request.transport)
        self.keys.append(request.headers.get("Authorization", ""))
        fields = await request.json()
        prompt = fields.get("prompt") or fields.get("input") or fields["messages"][-1]["content"]
        is_probe = prompt == "1"
        if not is_probe:
            self.prompts.append(prompt)
            self.ids.append(request.headers["X-Request-Id"])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if self.behave is not None and (given := await self.behave(request)) is not None:
                return given
            self.probes += is_probe
            return await self._usual(request, fields, prompt)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.running -= 1

    async def _usual(self, request: web.Request, fields: dict[str, Any], prompt: str) -> web.StreamResponse:
        if request.path.endswith("embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
            usage = {"prompt_tokens": 1, "total_tokens": 1}
            return web.json_response({"object": "list", "model": self.model, "data": data, "usage": usage})
        if fields.get("stream"):
            return await self.stream(request, ["the ", "nonce ", nonce(prompt)])
        return web.json_response(self._chunk(request.path, nonce(prompt), "stop", whole=True))

    async def stream(self, request: web.Request, words: list[str], *, done: bool = True) -> web.StreamResponse:
        """Answer with events, one a word."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in words:
            chunk = json.dumps(self._chunk(request.path, word, None, whole=False))
            await response.write(f"data: {chunk}\n\n".encode())
        if done:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    def _chunk(self, path: str, text: str, finish: str | None, *, whole: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2} if whole else None
        kind = "text_completion"
        if "chat" in path:
            kind = "chat.completion" if whole else "chat.completion.chunk"
            choice["message" if whole else "delta"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {"id": "x", "object": kind, "created": 1, "model": self.model, "choices": [choice], "usage": usage}


def failing(status: int, text: str = "boom", **headers: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a behaviour: every request gets this status."""

    async def answer(_: web.Request) -> web.StreamResponse:
        error = {"error": {"message": text, "type": "x", "param": None, "code": None}}
        return web.json_response(error, status=status, headers=headers)

    return answer


async def hang(_: web.Request) -> web.StreamResponse | None:
    """A behaviour: never answers."""
    await asyncio.Event().wait()
    return None


async def break_off(request: web.Request) -> web.StreamResponse | None:
    """A behaviour: closes the connection instead of answering."""
    if request.transport is not None:
        request.transport.close()
    return None
