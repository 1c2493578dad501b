"""One address with OpenAI's API for all replicas and models of a router.

What clients send goes to a replica as it is, and what it answers comes back as it is, streams part by part.
"""

from __future__ import annotations

import hmac
import re
import socket
from asyncio import CancelledError
from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import hdrs, web

from rhapsody.errors import InferenceError, RequestRefusedError, RhapsodyError, SpecError
from rhapsody.inference.client import REQUEST_ID
from rhapsody.inference.gateway_errors import (
    RETRY_AFTER_S,
    error_body,
    error_response,
    response_to,
    response_to_http,
)
from rhapsody.inference.gateway_metrics import Metrics
from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS, Request

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from rhapsody.inference.router import Router, Stream

BODY_LIMIT = 32 * 1024 * 1024
SHUTDOWN_S = 2.0
CLIENT_GONE = 499
"""As nginx calls it; only logs could show it."""
_REQUEST_ID = re.compile(r"[!-~]{1,128}", re.ASCII)
_SHORTEST_TOKEN = 16
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared only


class Gateway:
    """A server; use it with `async with`, within the router's.

    Args:
        router: Where requests go.
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        token: What clients must show as their API key; `read_secret` reads it from a file.
        body_limit: Largest request in bytes.
        within_s: Each request fails when it takes longer; None: no limit.
    """

    def __init__(
        self,
        router: Router,
        host: str,
        port: int,
        token: str,
        *,
        body_limit: int = BODY_LIMIT,
        within_s: float | None = None,
    ) -> None:
        if len(token) < _SHORTEST_TOKEN:
            raise SpecError(f"the gateway's token has {len(token)} characters; at least {_SHORTEST_TOKEN} are needed")
        self.metrics = Metrics(router)
        self._router = router
        self._host = host
        self._port = port
        self._bearer = f"Bearer {token}".encode()
        self._within_s = within_s
        # Handlers are cancelled when their client goes, and with them what they have asked of a server.
        self._runner = web.AppRunner(
            self._application(body_limit), handler_cancellation=True, access_log=None, shutdown_timeout=SHUTDOWN_S
        )

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as exc:
            await self._runner.cleanup()
            raise SpecError(
                f"the gateway cannot listen on {self._host}, port {self._port}: {exc.strerror}; port 0 picks a free one"
            ) from exc
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def url(self) -> str:
        """What clients take as their base URL; of one that listens everywhere, by the name of this machine."""
        host = socket.gethostname() if self._host in _EVERYWHERE else self._host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self._port}/v1"

    def _application(self, body_limit: int) -> web.Application:
        application = web.Application(client_max_size=body_limit, middlewares=[self._guarded])
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._tell_metrics)
        application.router.add_get("/v1/models", self._list_models)
        application.router.add_get("/v1/models/{model:.+}", self._tell_model)
        for path in (COMPLETIONS, CHAT, EMBEDDINGS):
            application.router.add_post(path, self._forward)
        return application

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Let in who knows the token, and turn errors into answers."""
        if request.path != "/health" and not self._knows_token(request):
            return error_response(401, "a wrong or missing API key; the gateway wants its token", "invalid_api_key")
        try:
            return await handler(request)
        except RhapsodyError as exc:
            response = response_to(exc)
        except web.HTTPException as exc:
            response = response_to_http(exc)
        except ConnectionError:  # of the client, in the middle of a stream: nobody reads this
            response = error_response(CLIENT_GONE, "the client has closed the connection")
        if uid := _shown_id(request):
            response.headers[REQUEST_ID] = uid
        return response

    def _knows_token(self, http: web.Request) -> bool:
        shown = http.headers.get(hdrs.AUTHORIZATION, "")
        return hmac.compare_digest(shown.encode(errors="replace"), self._bearer)

    async def _health(self, _: web.Request) -> web.Response:
        """Say whether requests would be answered; who asks needs no token, and learns no names."""
        if any(member.is_ready for member in self._router.replicas.values()):
            return web.json_response({"status": "ok"})
        return error_response(503, "no replica is ready", retry_after=RETRY_AFTER_S)

    async def _tell_metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.text(), headers={hdrs.CONTENT_TYPE: "text/plain; version=0.0.4"})

    async def _list_models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [_model(name) for name in self._router.models]})

    async def _tell_model(self, http: web.Request) -> web.Response:
        name = http.match_info["model"]
        return _json(_model(name)) if self._router.serves(name) else self._unknown(name)

    async def _forward(self, http: web.Request) -> web.StreamResponse:
        """Answer a request to a model."""
        try:
            request = Request.parse(http.path, await http.read(), within_s=self._within_s)
        except SpecError:
            self.metrics.ended("", "invalid")
            raise
        if not self._router.serves(request.model):
            self.metrics.ended("", "unknown_model")
            return self._unknown(request.model)
        try:
            if request.wants_stream:
                return await self._forward_stream(http, request)
            answer = await self._router.ask(request)
        except RequestRefusedError:
            self.metrics.ended(request.model, "refused")
            raise
        except InferenceError:
            self.metrics.ended(request.model, "failed")
            raise
        except (CancelledError, ConnectionError):
            self.metrics.ended(request.model, "cancelled")
            raise
        self.metrics.answered(request.model, answer.journey)
        headers = {hdrs.CONTENT_TYPE: answer.content_type, REQUEST_ID: _shown_id(http) or request.uid}
        return web.Response(body=answer.body, headers=headers)

    async def _forward_stream(self, http: web.Request, request: Request) -> web.StreamResponse:
        async with self._router.stream(request) as stream:
            self.metrics.began(request.model, stream.journey)
            response = web.StreamResponse(
                headers={
                    hdrs.CONTENT_TYPE: stream.content_type,
                    hdrs.CACHE_CONTROL: "no-cache",
                    REQUEST_ID: _shown_id(http) or request.uid,
                }
            )
            await response.prepare(http)
            outcome = await _pass_on(stream, response, http)
        self.metrics.ended(request.model, outcome, stream.journey.replica)
        return response

    def _unknown(self, model: str) -> web.Response:
        valid = ", ".join(self._router.models) or "none yet"
        return error_response(404, f"there is no model {model!r}; models: {valid}", "model_not_found")


async def _pass_on(stream: Stream, response: web.StreamResponse, http: web.Request) -> str:
    """Write a stream to the client; return how it ended.

    When it breaks off the client hears so twice: by an event with the error, and by a connection that ends too early.
    """
    try:
        async for part in stream.parts():
            await response.write(part)
    except InferenceError as exc:
        await response.write(b"data: " + error_body(exc.status, str(exc)) + b"\n\n")
        if http.transport is not None:
            http.transport.close()
        return "broken_off"
    await response.write_eof()
    return "answered"


def _shown_id(http: web.Request) -> str:
    """Return the id that the client gave its request, if it may be repeated."""
    uid = http.headers.get(REQUEST_ID, "")
    return uid if _REQUEST_ID.fullmatch(uid) else ""


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rhapsody"}


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
