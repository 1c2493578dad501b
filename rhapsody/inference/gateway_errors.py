"""Errors as OpenAI's clients understand them."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs, web

from rhapsody.errors import InferenceError, RequestRefusedError, RhapsodyError
from rhapsody.inference.client import words_of

RETRY_AFTER_S = "5"
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


def error_body(status: int, message: str, code: str = "") -> bytes:
    """Return the JSON of an error."""
    kind = _TYPES.get(status) or ("invalid_request_error" if status < 500 else "server_error")
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": code or None}})


def error_response(status: int, message: str, code: str = "", retry_after: str = "") -> web.Response:
    """Return an answer that is an error."""
    headers = {hdrs.RETRY_AFTER: retry_after} if retry_after else None
    body = error_body(status, message, code)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)


def response_to(exc: RhapsodyError) -> web.Response:
    """Return what a client is told of an error: of a server's refusal, its own words."""
    if isinstance(exc, RequestRefusedError):
        if exc.status in (401, 403):  # it is the router's key that is wrong, not the client's
            return error_response(502, str(exc), "replica_refused_key")
        return error_response(exc.status, words_of(exc.body), "refused_by_server")
    if isinstance(exc, InferenceError):
        retry_after = exc.retry_after or (RETRY_AFTER_S if exc.status == 503 else "")
        return error_response(exc.status, str(exc), retry_after=retry_after)
    return error_response(400, str(exc))


def response_to_http(exc: web.HTTPException) -> web.Response:
    """Return the same error of HTTP in OpenAI's shape."""
    text = f"{exc.status} {exc.reason}"
    if isinstance(exc, web.HTTPRequestEntityTooLarge):
        text = f"the request is too large: {exc.text}"
    response = error_response(exc.status, text)
    if hdrs.ALLOW in exc.headers:
        response.headers[hdrs.ALLOW] = exc.headers[hdrs.ALLOW]
    return response
