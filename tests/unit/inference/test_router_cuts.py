"""The router over stand-in engines whose connections are cut after any byte: each prompt gets its own answer."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import InferenceError
from rhapsody.inference.breaker import BreakerSettings
from rhapsody.inference.engine_http import serving
from rhapsody.inference.engine_settings import StandInSettings
from rhapsody.inference.engine_texts import answer_part, embedding, nonce_of
from rhapsody.inference.replica import Replica
from rhapsody.inference.request import COMPLETIONS, EMBEDDINGS, Request
from rhapsody.inference.router import Limits, Router
from tests.unit.inference.cutting import CuttingProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

MODEL = "stand-in/small"
REQUESTS, CLIENTS, LONGEST = 250, 24, 30
LIMITS = Limits(attempts=50, tick_s=0.01, breaker=BreakerSettings(first_pause_s=0.01, longest_pause_s=0.02))


async def whole(router: Router, text: str, tokens: int, *, stream: bool) -> str:
    fields = {"model": MODEL, "prompt": text, "max_tokens": tokens, "stream": stream}
    answer = await router.ask(Request.make(COMPLETIONS, fields, within_s=60))
    if not stream:
        return str(answer.json()["choices"][0]["text"])
    return _text(answer.body)


async def in_parts(router: Router, text: str, tokens: int) -> str:
    """Ask for a stream until one comes to its end."""
    fields = {"model": MODEL, "prompt": text, "max_tokens": tokens, "stream": True}
    while True:
        try:
            async with router.stream(Request.make(COMPLETIONS, fields, within_s=60)) as stream:
                return _text(b"".join([part async for part in stream.parts()]))
        except InferenceError as exc:
            assert "broke off" in str(exc)  # noqa: PT017 - all other failures are


async def embedded(router: Router, text: str) -> list[float]:
    answer = await router.ask(Request.make(EMBEDDINGS, {"model": MODEL, "input": text}, within_s=60))
    found: list[float] = answer.json()["data"][0]["embedding"]
    return found


def _text(body: bytes) -> str:
    """Return what the events of a stream say; of one without an end, nothing."""
    *parts, last = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line]
    return "".join(json.loads(part)["choices"][0]["text"] for part in parts) if last == b"[DONE]" else ""


class Load:
    """Asks for many answers, and checks each.

    Attributes:
        answered: How many were right.
        wrong: Those that were not.
    """

    def __init__(self, router: Router, chance: random.Random) -> None:
        self.answered = 0
        self.wrong: list[tuple[str, object]] = []
        self._router = router
        self._chance = chance

    async def ask_all(self, numbers: Iterator[int]) -> None:
        for number in numbers:
            text, tokens = f"prompt number {number}", self._chance.randrange(1, LONGEST)
            kind = self._chance.randrange(4)
            if kind == 0:
                said: object = await embedded(self._router, text)
                is_right = said == embedding(text)
            else:
                said = await (
                    in_parts(self._router, text, tokens)
                    if kind == 1
                    else whole(self._router, text, tokens, stream=kind == 2)
                )
                is_right = said == answer_part(nonce_of(text), 0, tokens)
            self.answered += is_right
            if not is_right:
                self.wrong.append((text, said))


@pytest.mark.parametrize("seed", [1, 2])
async def test_each_prompt_is_answered_by_its_own_answer_while_connections_are_cut(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - reproducible, no secret
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(Router(limits=LIMITS))
        proxies = []
        for number in range(3):
            engine = await stack.enter_async_context(serving(StandInSettings(model="small", speed=50)))
            proxy = await stack.enter_async_context(CuttingProxy(engine.port, chance))
            router.add(Replica(f"r{number}", f"http://127.0.0.1:{proxy.port}", MODEL))
            proxies.append(proxy)
        load, numbers = Load(router, chance), iter(range(REQUESTS))
        async with asyncio.TaskGroup() as group:
            for _ in range(CLIENTS):
                group.create_task(load.ask_all(numbers))

        assert (load.answered, load.wrong) == (REQUESTS, [])
        assert sum(proxy.cuts for proxy in proxies) > REQUESTS / 20
        assert router.counters.tried_again > 0
        assert router.ledger.in_flight == 0
