"""An AI worker behind HTTP, with the addresses of OpenAI's interface."""

from __future__ import annotations

import asyncio
import hmac
import re
import time
import uuid
from contextlib import aclosing, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import hdrs, web

from rhapsody.errors import InferenceError, RequestRefusedError, RhapsodyError, SpecError
from rhapsody.inference.client import REQUEST_ID
from rhapsody.inference.exposition import CONTENT_TYPE
from rhapsody.inference.gateway_errors import error_body, error_response, response_to_http
from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS
from rhapsody.inference.worker_metrics import render_metrics
from rhapsody.inference.worker_queue import Kind
from rhapsody.inference.worker_replies import DONE, Reply, embeddings, event
from rhapsody.inference.worker_requests import AnyAsked, Chat, Completion, Embeddings, parse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from aiohttp.typedefs import Handler

    from rhapsody.inference.worker_model import Generated, Loaded, Prompt
    from rhapsody.inference.worker_requests import Generation
    from rhapsody.inference.worker_thread import ModelThread

MAKER = "rhapsody worker"
_SHOWN_ID = re.compile(r"[!-~]{1,200}", re.ASCII)
_request_id: ContextVar[str] = ContextVar("request_id")
"""Of the request that this asyncio task serves."""


class WorkerSettings(NamedTuple):
    """What the server of a worker is told.

    Attributes:
        model: The name by which requests ask for it.
        key: What clients must show as `Authorization: Bearer`; empty lets everybody in.
        body_limit: Largest request in bytes.
    """

    model: str
    key: str = ""
    body_limit: int = 32 * 1024 * 1024


class WorkerServer:
    """Answers requests with a model.

    Args:
        settings: What it is told.
        model: What the model offers.
        thread: Where the model runs.

    Attributes:
        app: What aiohttp serves.
        active: Requests for answers that are under way.
    """

    def __init__(self, settings: WorkerSettings, model: Loaded, thread: ModelThread) -> None:
        self.app = web.Application(client_max_size=settings.body_limit, middlewares=[self._guarded])
        self.app.on_response_prepare.append(_sign)
        self.app.router.add_get("/health", self._health)
        self.app.router.add_get("/metrics", self._metrics)
        self.app.router.add_get("/v1/models", self._models)
        self.app.router.add_post(COMPLETIONS, self._completions)
        self.app.router.add_post(CHAT, self._chat)
        self.app.router.add_post(EMBEDDINGS, self._embeddings)
        self.active = 0
        self._settings = settings
        self._model = model
        self._thread = thread
        self._bearer = f"Bearer {settings.key}".encode()
        self._quiet = asyncio.Event()
        self._draining = False

    async def drain(self, limit_s: float) -> None:
        """Take no more requests, and wait for those under way, but no longer than the limit."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.active:
                    self._quiet.clear()
                    await self._quiet.wait()

    # What holds for all requests

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        _request_id.set(_id_of(request))
        if request.path.startswith("/v1") and not self._is_let_in(request):
            return error_response(401, "a wrong or missing API key; send Authorization: Bearer KEY", "invalid_api_key")
        try:
            if request.method != "POST":
                return await handler(request)
            return await self._counted(request, handler)
        except RhapsodyError as exc:
            return _response_to(exc)
        except web.HTTPException as exc:
            return response_to_http(exc)

    def _is_let_in(self, http: web.Request) -> bool:
        shown = http.headers.get(hdrs.AUTHORIZATION, "").encode(errors="replace")
        return not self._settings.key or hmac.compare_digest(shown, self._bearer)

    async def _counted(self, http: web.Request, handler: Handler) -> web.StreamResponse:
        if self._draining:
            return error_response(503, "this worker is draining; ask another", "draining", retry_after="1")
        self.active += 1
        try:
            return await handler(http)
        finally:
            self.active -= 1
            if not self.active:
                self._quiet.set()

    async def _read(self, http: web.Request, kind: type[AnyAsked], does: Kind) -> AnyAsked:
        """Return a request, once it is seen to be for this model, and nothing that it cannot do."""
        asked = parse(kind, await http.read())
        if asked.model != self._settings.model:
            raise RequestRefusedError(f"there is no model {asked.model!r}; models: {self._settings.model}", 404)
        if does is Kind.GENERATE and self._model.generate is None:
            raise RequestRefusedError(f"{asked.model} only embeds", 404)
        if does is Kind.EMBED and self._model.embed is None:
            raise RequestRefusedError(f"{asked.model} does not embed", 404)
        return asked

    def _readable(self, prompts: list[Prompt]) -> list[Prompt]:
        if not self._model.reads_token_ids and any(prompt.token_ids for prompt in prompts):
            raise SpecError("this model reads texts, no numbers of tokens")
        return prompts

    # What is asked about the worker

    async def _health(self, _: web.Request) -> web.Response:
        if self._draining or self._thread.reason:
            return error_response(503, self._thread.reason or "this worker is draining")
        return web.json_response({"status": "ok", "server": MAKER})

    async def _metrics(self, _: web.Request) -> web.Response:
        text = render_metrics(self._thread, self._settings.model)
        return web.Response(body=text.encode(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    async def _models(self, _: web.Request) -> web.Response:
        model: dict[str, Any] = {"id": self._settings.model, "object": "model", "created": 0, "owned_by": MAKER}
        if self._model.max_model_len is not None:
            model["max_model_len"] = self._model.max_model_len
        return web.json_response({"object": "list", "data": [model]})

    # What is asked of the model

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        asked = await self._read(http, Completion, Kind.GENERATE)
        return await self._generate(http, asked, self._readable(asked.prompts), chat=False)

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        asked = await self._read(http, Chat, Kind.GENERATE)
        return await self._generate(http, asked, asked.prompts, chat=True)

    async def _embeddings(self, http: web.Request) -> web.StreamResponse:
        asked = await self._read(http, Embeddings, Kind.EMBED)
        found = await self._thread.answers(Kind.EMBED, self._readable(asked.prompts))
        sizes = {len(vector) for vector, _ in found}
        if asked.dimensions is not None and sizes != {asked.dimensions}:
            shown = ", ".join(map(str, sorted(sizes)))
            raise SpecError(
                f"dimensions: this model's vectors have {shown} numbers, not {asked.dimensions}; leave it out"
            )
        return _json(embeddings(asked.model, found, as_base64=asked.encoding_format == "base64"))

    async def _generate(
        self, http: web.Request, asked: Generation, prompts: list[Prompt], *, chat: bool
    ) -> web.StreamResponse:
        uid = f"{'chatcmpl' if chat else 'cmpl'}-{_request_id.get()}"
        reply = Reply(uid, int(time.time()), asked.model, chat)
        if asked.stream:
            async with aclosing(self._parts(prompts)) as parts:
                return await _send_stream(http, reply, parts, usage=asked.wants_usage)
        return _json(reply.whole(await self._thread.answers(Kind.GENERATE, prompts)))

    async def _parts(self, prompts: Sequence[Prompt]) -> AsyncGenerator[tuple[int, Generated], None]:
        """Yield parts of answers with their indexes, one answer behind the other."""
        if self._model.stream is None:
            for index, answer in enumerate(await self._thread.answers(Kind.GENERATE, prompts)):
                yield index, answer
            return
        for index, prompt in enumerate(prompts):
            async with aclosing(self._thread.parts(prompt)) as parts:
                async for part in parts:
                    yield index, part


async def _send_stream(
    http: web.Request, reply: Reply, parts: AsyncGenerator[tuple[int, Generated], None], *, usage: bool
) -> web.StreamResponse:
    """Send parts as they come. What goes wrong before the first one is an answer of its own."""
    first = await anext(parts, None)
    answer = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-cache"})
    await answer.prepare(http)
    told = Told(reply)
    try:
        if first is not None:
            await answer.write(told.part(*first))
        async for index, part in parts:
            await answer.write(told.part(index, part))
    except RhapsodyError as exc:  # said twice: by an event, and by a connection that ends too early
        await answer.write(event(error_body(getattr(exc, "status", 500), str(exc))))
        if http.transport is not None:
            http.transport.close()
        return answer
    await answer.write(told.end(usage=usage))
    await answer.write_eof()
    return answer


class Told:
    """What a stream has told.

    Args:
        reply: How it is written.
    """

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._last: dict[int, Generated] = {}

    def part(self, index: int, part: Generated) -> bytes:
        """Return the events for a part; the choice before it has ended when it is of another."""
        before = self._last.get(index)
        ended = b"" if before is not None or not self._last else self._ending()
        tokens = part.tokens + (0 if before is None else before.tokens)
        self._last[index] = part._replace(tokens=tokens)
        return ended + self._reply.part(index, part.text, first=before is None)

    def end(self, *, usage: bool) -> bytes:
        """Return the events behind all parts."""
        return self._ending() + (self._reply.usage(list(self._last.values())) if usage else b"") + DONE

    def _ending(self) -> bytes:
        if not self._last:
            return b""
        index, last = next(reversed(self._last.items()))
        return self._reply.part(index, "", finish_reason=last.finish_reason)


def _response_to(exc: RhapsodyError) -> web.Response:
    if isinstance(exc, RequestRefusedError | InferenceError):
        code = "model_not_found" if exc.status == 404 else ""
        return error_response(exc.status, str(exc), code)
    return error_response(400, str(exc))


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def _id_of(request: web.Request) -> str:
    """Return the client's own id of a request, if it can be sent back as it is."""
    given = request.headers.get(REQUEST_ID, "")
    return given if _SHOWN_ID.fullmatch(given) else uuid.uuid4().hex


async def _sign(_: web.Request, answer: web.StreamResponse) -> None:
    """Say on each answer who gives it, and to which request."""
    answer.headers[hdrs.SERVER] = MAKER
    answer.headers[REQUEST_ID] = _request_id.get()
