"""Models for the tests of AI workers, without any library: they say what they read, a character a token."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.inference.worker_model import Generated, Prompt
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import aiohttp

HOLD = "hold "
"""A prompt that begins so names a FIFO: its batch goes on when somebody has opened that for writing."""
CONTEXT = 200_000


class Echo:
    """Says the prompt; with `ignore_eos` again and again, as long as it may."""

    max_model_len = CONTEXT

    def count(self, prompt: Prompt) -> int:
        return len(prompt.text)

    def template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        return "\n".join(f"{each['role']}: {each['content']}" for each in messages)

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        wait_where_told(batch)
        return [self._answer(prompt) for prompt in batch]

    def stream(self, prompt: Prompt) -> Iterator[Generated]:
        wait_where_told([prompt])
        reason = self._answer(prompt._replace(options={})).finish_reason
        for letter in letters(prompt):
            yield Generated(letter, 1, finish_reason=reason)

    def embed(self, batch: Sequence[Prompt]) -> list[list[float]]:
        return [[len(prompt.text), *map(float, prompt.text.encode()[:3])] for prompt in batch]

    def _answer(self, prompt: Prompt) -> Generated:
        text = "".join(letters(prompt))
        reason = "stop" if prompt.max_tokens is None or len(prompt.text) <= prompt.max_tokens else "length"
        return Generated(text, len(text), finish_reason=reason)


class Calls(Echo):
    """Says how often its loader was called."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        return [Generated(str(len(self.calls)))] * len(batch)


class Environment(Echo):
    """Says what a variable holds."""

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        return [Generated(os.environ.get(prompt.text, "not set")) for prompt in batch]


class Moody(Echo):
    """Fails as the prompt wants it to."""

    def __init__(self) -> None:
        self.is_broken = False
        self.batches: list[list[str]] = []

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        self.batches.append([prompt.text for prompt in batch])
        for prompt in batch:
            self.obey(prompt.text)
        return super().generate(batch)

    def obey(self, text: str) -> None:
        if "refuse" in text:
            raise SpecError("no molecule in the prompt")
        if "exit" in text:
            raise SystemExit(7)
        self.is_broken = self.is_broken or "break" in text
        if self.is_broken or "raise" in text:
            raise RuntimeError("no convergence")


def letters(prompt: Prompt) -> Iterator[str]:
    again = cycle(prompt.text) if prompt.options.get("ignore_eos") else iter(prompt.text)
    return islice(again, prompt.max_tokens)


def wait_where_told(batch: Sequence[Prompt]) -> None:
    for prompt in batch:
        if prompt.text.startswith(HOLD):
            Path(prompt.text.removeprefix(HOLD)).read_bytes()


def fifo(folder: Path) -> Path:
    """Make one to hold a model by."""
    path = folder / "hold"
    os.mkfifo(path, 0o600)
    return path


async def release(path: Path) -> None:
    """Wait until a model waits at a FIFO, and let it go on."""

    def somebody_waited() -> bool:
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # ENXIO: nobody reads
            return False
        return True

    await eventually(somebody_waited, within_s=20)


@contextmanager
def kept_waiting(path: Path) -> Iterator[Callable[[], bool]]:
    """Give a function that says whether a model waits at a FIFO; from then on it waits until the context is left."""
    held: list[int] = []

    def waits() -> bool:
        with suppress(OSError):  # ENXIO: nobody reads
            held.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held)

    try:
        yield waits
    finally:
        for descriptor in held:
            os.close(descriptor)


async def refuses(http: aiohttp.ClientSession) -> None:
    """Return once a server says that it is not healthy any more."""
    async with asyncio.timeout(10):
        while True:
            async with http.get("/health") as answer:
                if answer.status == 503:
                    return


def fails_to_load() -> object:
    raise RuntimeError("the weights are gone")


def no_model() -> object:
    return "a text"


def held_load(path: str) -> object:
    Path(path).read_bytes()
    return Echo()
