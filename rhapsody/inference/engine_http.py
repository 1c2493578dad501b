"""The stand-in engine behind HTTP, with the addresses of OpenAI's interface.

Its tokens come when the stated model says, in real time times the speed; what they say comes from no model.
"""

from __future__ import annotations

import asyncio
import hmac
import time
import uuid
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web

from rhapsody.errors import SpecError
from rhapsody.inference.engine_core import Engine
from rhapsody.inference.engine_faults import Switches
from rhapsody.inference.engine_metrics import render_metrics
from rhapsody.inference.engine_pace import Pacer
from rhapsody.inference.engine_replies import MAKER, Choice, Reply, problem, send_stream
from rhapsody.inference.engine_requests import (
    CHAT_TOKENS,
    COMPLETION_TOKENS,
    AnyRequest,
    Chat,
    Completion,
    Embeddings,
    parse,
)
from rhapsody.inference.engine_settings import MARK
from rhapsody.inference.engine_texts import embedding, nonce_of, packed, prompts_of
from rhapsody.inference.exposition import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rhapsody.inference.engine_requests import Generation, Request
    from rhapsody.inference.engine_settings import StandInSettings
    from rhapsody.inference.engine_texts import Prompt

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

REQUEST_ID = "X-Request-Id"
CLIENT_GONE = 499
_CUT_S = 0.05
_ID_LIMIT = 200
_request_id: ContextVar[str] = ContextVar("request_id")
"""Of the request that this asyncio task serves."""
_LOCAL = ("127.0.0.1", "::1", "localhost")


class StandIn:
    """The server; see `serving`.

    Attributes:
        settings: As given.
        pacer: The engine in real time.
        app: What aiohttp serves.
        port: Where it listens, once it does.
    """

    def __init__(self, settings: StandInSettings) -> None:
        self.settings = settings
        self.pacer = Pacer(Engine(settings.engine), settings.speed)
        self.port = settings.port
        self.app = web.Application(client_max_size=settings.max_body_bytes, middlewares=[self._guard])
        self.app.on_response_prepare.append(_sign)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_post("/v1/completions", self._completions)
        self.app.router.add_post("/v1/chat/completions", self._chat)
        self.app.router.add_post("/v1/embeddings", self._embeddings)
        self._switches = Switches(settings.faults)
        self._draining = False
        self._active = 0
        self._quiet = asyncio.Event()

    @property
    def url(self) -> str:
        """Base URL, as clients of OpenAI want it."""
        host = f"[{self.settings.host}]" if ":" in self.settings.host else self.settings.host
        return f"http://{host}:{self.port}/v1"

    @property
    def active(self) -> int:
        """Requests for answers that are under way."""
        return self._active

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, and wait for those under way, but no longer than the limit."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._active:
                    self._quiet.clear()
                    await self._quiet.wait()

    # What holds for all requests

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        _request_id.set(_id_of(request))
        if request.path.startswith("/v1") and not self._is_let_in(request):
            return problem(401, "the key is missing or wrong; send Authorization: Bearer KEY", "invalid_api_key")
        try:
            if request.method != "POST":
                return await handler(request)
            return await self._count(request, handler)
        except SpecError as exc:
            return problem(400, str(exc))
        except ConnectionError:  # the client has gone in the middle of a stream: nobody reads this
            return problem(CLIENT_GONE, "the client has closed the connection")
        except web.HTTPException as exc:
            return problem(exc.status, _in_words(exc, request, self.settings.max_body_bytes))

    async def _count(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._draining:
            message = f"this {MARK} is draining and takes no more requests; ask another"
            return problem(503, message, "draining", {"Retry-After": "1"})
        self._active += 1
        try:
            if await self._switches.before():
                return problem(500, f"this {MARK} fails on purpose: fail_after was set", "fault")
            return await handler(request)
        finally:
            self._active -= 1
            if not self._active:
                self._quiet.set()

    def _is_let_in(self, request: web.Request) -> bool:
        if self.settings.key is None:
            return True
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        wanted = self.settings.key.get_secret_value()
        same = hmac.compare_digest(shown.strip().encode(errors="surrogateescape"), wanted.encode())
        return same and scheme.lower() == "bearer"

    async def _read(self, request: web.Request, kind: type[AnyRequest]) -> AnyRequest:
        return parse(kind, await request.read())

    def _unknown_model(self, asked: Request) -> web.Response | None:
        shown = self.settings.shown_model
        if asked.model in {shown, self.settings.model}:
            return None
        return problem(404, f"unknown model {asked.model!r}; valid: {shown}", "model_not_found")

    # What is asked about the server

    async def _health(self, _: web.Request) -> web.Response:
        if self._draining:
            return problem(503, f"this {MARK} is draining", "draining")
        return web.json_response({"status": "ok", "server": MAKER})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = render_metrics(self.pacer, self.settings.shown_model)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": self.settings.shown_model,
            "object": "model",
            "created": 0,
            "owned_by": MAKER,
            "max_model_len": self.settings.engine.max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    # What is asked of the model

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, Completion)
        if refused := self._unknown_model(asked):
            return refused
        prompts = prompts_of(asked.prompt, "prompt")
        reply = self._reply(chat=False, length=asked.max_tokens)
        return await self._generate(request, asked, reply, prompts, asked.max_tokens or COMPLETION_TOKENS)

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, Chat)
        if refused := self._unknown_model(asked):
            return refused
        length = asked.max_completion_tokens or asked.max_tokens
        reply = self._reply(chat=True, length=length)
        return await self._generate(request, asked, reply, [asked.prompt], length or CHAT_TOKENS)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        asked = await self._read(request, Embeddings)
        if refused := self._unknown_model(asked):
            return refused
        prompts = prompts_of(asked.input, "input")
        async with self._running(prompts, 1, asyncio.Event()) as choices:
            for choice in choices:
                await choice.ticket.finished.wait()
        data = []
        for index, prompt in enumerate(prompts):
            numbers = embedding(prompt.text, asked.dimensions)
            shown = packed(numbers) if asked.encoding_format == "base64" else numbers
            data.append({"object": "embedding", "index": index, "embedding": shown})
        read = sum(prompt.tokens for prompt in prompts)
        usage = {"prompt_tokens": read, "total_tokens": read}
        answer = {"object": "list", "model": self.settings.shown_model, "data": data, "usage": usage}
        return await self._switches.in_turn(web.json_response(answer))

    def _reply(self, *, chat: bool, length: int | None) -> Reply:
        uid = f"{'chatcmpl' if chat else 'cmpl'}-{_request_id.get()}"
        return Reply(uid, int(time.time()), self.settings.shown_model, chat, ends_by_itself=length is None)

    async def _generate(
        self, request: web.Request, asked: Generation, reply: Reply, prompts: list[Prompt], length: int
    ) -> web.StreamResponse:
        changed = asyncio.Event()
        async with self._running(prompts, length, changed) as choices:
            if asked.stream:
                return await send_stream(request, reply, choices, changed, usage=asked.wants_usage)
            for choice in choices:
                await choice.ticket.finished.wait()
        return await self._switches.in_turn(web.json_response(reply.whole(choices)))

    @asynccontextmanager
    async def _running(self, prompts: list[Prompt], length: int, changed: asyncio.Event) -> AsyncIterator[list[Choice]]:
        """Have prompts in the engine; what has not ended is aborted, as when the client goes away."""
        choices: list[Choice] = []
        try:
            for prompt in prompts:
                ticket = self.pacer.submit(prompt.tokens, length, changed)
                choices.append(Choice(nonce_of(prompt.text), ticket))
            yield choices
        finally:
            for choice in choices:
                self.pacer.abandon(choice.ticket)


def _id_of(request: web.Request) -> str:
    """Return the client's own id of a request, if it can be sent back as it is."""
    given = request.headers.get(REQUEST_ID, "")
    return given if 0 < len(given) <= _ID_LIMIT and given.isascii() and given.isprintable() else uuid.uuid4().hex


async def _sign(_: web.Request, answer: web.StreamResponse) -> None:
    """Say on each answer who gives it, and to which request."""
    answer.headers["Server"] = MAKER
    answer.headers[REQUEST_ID] = _request_id.get()


def _in_words(exc: web.HTTPException, request: web.Request, max_body_bytes: int) -> str:
    if exc.status == 413:
        return f"the request is longer than {max_body_bytes} bytes; send less"
    return f"{request.method} {request.path}: {exc.reason}"


@asynccontextmanager
async def serving(settings: StandInSettings) -> AsyncIterator[StandIn]:
    """Serve as long as the context is entered; at its end what is under way is cut off: `drain` before.

    Raises:
        SpecError: It cannot listen there, or would without a key for others than this machine.
    """
    if settings.key is None and settings.host not in _LOCAL:
        raise SpecError(f"host={settings.host} can be reached by others: give a key, or listen on 127.0.0.1")
    stand_in = StandIn(settings)
    runner = web.AppRunner(stand_in.app, handler_cancellation=True, access_log=None, shutdown_timeout=_CUT_S)
    await runner.setup()
    try:
        await _listen(runner, settings)
        stand_in.port = runner.addresses[0][1]
        yield stand_in
    finally:
        await runner.cleanup()
        stand_in.pacer.close()


async def _listen(runner: web.AppRunner, settings: StandInSettings) -> None:
    try:
        await web.TCPSite(runner, settings.host, settings.port, backlog=4096).start()
    except OSError as exc:
        where = f"{settings.host}, port {settings.port}"
        raise SpecError(f"cannot listen on {where}: {exc.strerror}; choose another, or port 0") from exc
