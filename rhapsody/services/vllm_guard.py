"""Lets nobody without the key into a vLLM server, whatever the path: its own check covers those below `/v1` only.

A middleware of ASGI, which vLLM loads by `--middleware`: it runs in vLLM's interpreter, and imports nothing of
RHAPSODY. Source: vLLM 0.32, `entrypoints/openai`; /invocations, /tokenize, /metrics and /docs answered without a key.
"""

from __future__ import annotations

import hmac
import os
from typing import Any

OPEN = frozenset({"/health", "/ping"})
"""They say nothing but that the server is well."""


class Guard:
    """The middleware.

    Args:
        app: What comes behind it.
    """

    def __init__(self, app: Any) -> None:  # noqa: ANN401 - ASGI has no types here
        self._app = app
        self._bearer = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - likewise
        """Pass a request on, or refuse it."""
        if scope["type"] not in {"http", "websocket"} or scope["path"] in OPEN or self._knows_key(scope):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        await send({"type": "http.response.start", "status": 401, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": b'{"error": "Unauthorized"}'})

    def _knows_key(self, scope: Any) -> bool:  # noqa: ANN401 - likewise
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return bool(shown) and hmac.compare_digest(shown[0], self._bearer)
