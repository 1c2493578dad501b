"""A router over small servers, and requests to it."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from rhapsody.inference.breaker import BreakerSettings
from rhapsody.inference.request import COMPLETIONS, Request
from rhapsody.inference.router import Limits, Router
from tests.unit.inference.model_server import MODEL, ModelServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rhapsody.inference.request import Answer

QUICK = BreakerSettings(failures=3, silence_s=0.2, first_pause_s=0.05, longest_pause_s=0.1, probe_s=0.1)
LIMITS = Limits(ready_wait_s=5, tick_s=0.02, breaker=QUICK)


def asks(prompt: str, *, stream: bool = False, within_s: float | None = 20, **more: Any) -> Request:  # noqa: ANN401
    fields = {"model": MODEL, "prompt": prompt, "max_tokens": 4, "stream": stream, **more}
    return Request.make(COMPLETIONS, fields, within_s=within_s)


def text(answer: Answer) -> str:
    return str(answer.json()["choices"][0]["text"])


@asynccontextmanager
async def routed(
    count: int = 1, limits: Limits = LIMITS, policy: str = "least_tokens"
) -> AsyncIterator[tuple[Router, list[ModelServer]]]:
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(ModelServer(f"r{number}")) for number in range(1, count + 1)]
        router = await stack.enter_async_context(Router(policy, limits))
        for server in servers:
            router.add(server.replica())
        yield router, servers
        assert router.ledger.in_flight == 0
        assert all(not member.load.tokens for member in router.replicas.values())
