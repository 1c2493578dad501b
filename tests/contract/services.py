"""Services that tests start."""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import socket
import tempfile
import urllib.request
from typing import Any

from rhapsody import Restart, ServiceTask

AT_ONCE = Restart(limit=5, delay_s=0.0)
QUICK: dict[str, Any] = {"readiness": "/", "restart": AT_ONCE, "drain_s": 5.0}


def serve(host: str, port: int, word: str = "here") -> None:
    """Answer every request with a word, the process id, the host and what the environment holds of secrets."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            said = {"word": word, "pid": os.getpid(), "host": socket.gethostname(), "secret": os.environ.get("SECRET")}
            said["temporary"] = tempfile.mkdtemp()
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *args: object) -> None:
            pass

    http.server.ThreadingHTTPServer((host, port), Handler).serve_forever()


def web(name: str = "web", **options: Any) -> ServiceTask:  # noqa: ANN401 - as ServiceTask takes them
    return ServiceTask(name, function=serve, **(QUICK | options))


def shell(name: str, script: str, **options: Any) -> ServiceTask:  # noqa: ANN401 - as ServiceTask takes them
    return ServiceTask(name, executable="sh", arguments=["-c", script], **({"restart": AT_ONCE} | options))


async def said_by(url: str) -> dict[str, Any]:
    def get() -> dict[str, Any]:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - of our own service
            found: dict[str, Any] = json.load(answer)
            return found

    return await asyncio.to_thread(get)
