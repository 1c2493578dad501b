"""A thousand replicas killed at random moments under load: is each prompt answered exactly once, and none lost?

Run it with `python benchmarks/killed_replicas.py`; some minutes. Replicas are processes of the stand-in engine, killed
by SIGKILL. Half of them come back where they were, so that the router has to find that out itself; for the others a new
one on another port takes their place, as a session does it. Half of the clients ask the router, the others the gateway
over HTTP; prompts are completions, chats, streams and embeddings. Each answer must be that to its own prompt, in all
its length: the engine says a nonce of the prompt. Ends with exit code 1 if a prompt was lost or got another's answer.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp

from rhapsody.errors import RhapsodyError
from rhapsody.inference.client import DONE, events
from rhapsody.inference.engine_texts import answer_part, embedding, nonce_of
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS, Request
from rhapsody.inference.router import Limits, Router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL = "stand-in/small"
TOKEN = "token-of-the-benchmark"  # noqa: S105 - of nothing else
LONGEST = 40
ATTEMPTS = Limits().attempts
WITHIN_S = 120.0
START_S = 60.0
POLL_S = 0.005
TELL_EVERY_S = 10.0


class Prompt(NamedTuple):
    """One thing that is asked once.

    Attributes:
        path: Of the API.
        text: No other prompt has it.
        tokens: Length of the answer.
        streams: Whether the answer is to come in parts.
    """

    path: str
    text: str
    tokens: int
    streams: bool

    def fields(self) -> dict[str, Any]:
        """Return the JSON of the request."""
        if self.path == EMBEDDINGS:
            return {"model": MODEL, "input": self.text}
        length = {"model": MODEL, "max_tokens": self.tokens, "stream": self.streams}
        if self.path == CHAT:
            return {**length, "messages": [{"role": "user", "content": self.text}]}
        return {**length, "prompt": self.text}

    def is_answered_by(self, said: object) -> bool:
        """Return whether this is the answer to this prompt, and all of it."""
        if self.path == EMBEDDINGS:
            return said == embedding(self.text)
        return said == answer_part(nonce_of(self.text), 0, self.tokens)


class Seen:
    """What has happened so far."""

    def __init__(self) -> None:
        self.asked = 0
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.lost: list[str] = []
        self.broken_off = 0
        self.kills = 0
        self.killed_busy = 0
        self.most_attempts = 0

    @property
    def is_right(self) -> bool:
        """Whether each prompt was answered once, by its own answer."""
        return not self.lost and not self.wrong and len(self.answers) == self.asked == self.answers.total()


class Server:
    """One stand-in engine, whose process is killed and started again."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.uid = ""
        self.port = 0
        self._folder = folder
        self._life = 0
        self._process: asyncio.subprocess.Process | None = None

    def replica(self) -> Replica:
        """Return how the router knows this life of it."""
        self.uid = f"r{self.number}.{self._life}"
        return Replica(self.uid, f"http://127.0.0.1:{self.port}", MODEL, key_in_file(self._folder / "key"))

    async def start(self, port: int = 0) -> bool:
        """Start a process on a port, 0: a free one; return whether it listens."""
        self._life += 1
        file = self._folder / f"{self.number}.{self._life}.port"
        argv = ["-m", "rhapsody.inference.engine_sim", "--model", "small", "--speed", "2", "--port", str(port)]
        files = ["--port-file", str(file), "--api-key-file", str(self._folder / "key")]
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(sys.executable, *argv, *files, stdout=quiet, stderr=quiet)
        async with asyncio.timeout(START_S):
            while not file.exists():
                if self._process.returncode is not None:
                    return False
                await asyncio.sleep(POLL_S)
        self.port = int(file.read_text())
        return True

    async def kill(self) -> None:
        """End the process by SIGKILL, now."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Trial:
    """Clients, servers, and what happens to them.

    Args:
        options: Of the command.
        folder: For the files of the servers.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.seen = Seen()
        self.router = Router(limits=Limits(attempts=options.attempts))
        self._options = options
        self._chance = random.Random(options.seed)  # noqa: S311 - reproducible, no secret
        self._servers = [Server(folder, number) for number in range(options.replicas)]
        self._all_killed = asyncio.Event()

    async def run(self) -> None:
        """Ask and kill, until there were so many kills."""
        async with AsyncExitStack() as stack:
            for server in self._servers:
                stack.push_async_callback(server.kill)
            router = await stack.enter_async_context(self.router)
            gateway = await stack.enter_async_context(Gateway(router, "127.0.0.1", 0, TOKEN, within_s=WITHIN_S))
            headers = {"Authorization": f"Bearer {TOKEN}"}
            http = aiohttp.ClientSession(gateway.url.removesuffix("/v1"), headers=headers)
            await stack.enter_async_context(http)
            for server in self._servers:
                await server.start()
                router.add(server.replica())
            async with asyncio.TaskGroup() as group:
                for server in self._servers:
                    group.create_task(self._die_again_and_again(server))
                for number in range(self._options.clients):
                    group.create_task(self._ask_on(number, http if number % 2 else None))
                group.create_task(self._tell())

    async def _die_again_and_again(self, server: Server) -> None:
        """Kill a server, and start it anew."""
        seen, chance = self.seen, self._chance
        while seen.kills < self._options.kills:
            await asyncio.sleep(chance.random() * 2 * self._options.up_s)
            if seen.kills >= self._options.kills:
                break
            seen.kills += 1
            seen.killed_busy += bool(self.router.replicas[server.uid].seats)
            await server.kill()
            comes_back = chance.random() < 0.5 and await server.start(server.port)
            if not comes_back:
                await server.start()
                self.router.remove(server.uid)
                self.router.add(server.replica())
        self._all_killed.set()

    async def _ask_on(self, client: int, http: aiohttp.ClientSession | None) -> None:
        """Ask one prompt after the other."""
        number = 0
        while not self._all_killed.is_set():
            number += 1
            prompt = self._prompt(f"prompt {number} of client {client} and seed {self._options.seed}")
            self.seen.asked += 1
            try:
                async with asyncio.timeout(2 * WITHIN_S):
                    said = await (self._ask(prompt) if http is None else self._post(prompt, http))
            except (RhapsodyError, aiohttp.ClientError, TimeoutError, OSError) as exc:
                self.seen.lost.append(f"{prompt.text}: {exc!r}")
                continue
            self.seen.answers[prompt.text] += 1
            if not prompt.is_answered_by(said):
                self.seen.wrong.append(f"{prompt}: {said!r}")

    def _prompt(self, text: str) -> Prompt:
        path = self._chance.choices((COMPLETIONS, CHAT, EMBEDDINGS), (5, 4, 1))[0]
        streams = path != EMBEDDINGS and self._chance.random() < 0.4
        return Prompt(path, text, self._chance.randrange(1, LONGEST), streams)

    async def _ask(self, prompt: Prompt) -> object:
        """Ask the router; of a stream, for the whole of it."""
        answer = await self.router.ask(Request.make(prompt.path, prompt.fields(), within_s=WITHIN_S))
        self.seen.most_attempts = max(self.seen.most_attempts, answer.journey.attempts)
        return await _said(answer.body, streams=prompt.streams)

    async def _post(self, prompt: Prompt, http: aiohttp.ClientSession) -> object:
        """Ask the gateway; a stream that breaks off is asked for again, as its client has to."""
        while True:
            async with http.post(prompt.path, json=prompt.fields()) as answer:
                try:
                    body = await answer.read()
                except aiohttp.ClientPayloadError:
                    if not prompt.streams:
                        raise
                    self.seen.broken_off += 1
                    continue
                if answer.status != 200:
                    raise aiohttp.ClientError(f"status {answer.status}: {body[:300]!r}")
                return await _said(body, streams=prompt.streams)

    async def _tell(self) -> None:
        """Print how far it is."""
        while not self._all_killed.is_set():
            seen = self.seen
            print(f"{seen.kills} killed, {seen.answers.total()} answered, {len(seen.lost)} lost", flush=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(TELL_EVERY_S):
                    await self._all_killed.wait()


async def _said(body: bytes, *, streams: bool) -> object:
    """Return the text or the numbers of an answer."""
    if not streams:
        found = json.loads(body)
        if "data" in found:
            return found["data"][0]["embedding"]
        choice = found["choices"][0]
        return choice["text"] if "text" in choice else choice["message"]["content"]
    if DONE not in body:
        return "a stream without an end"
    choices = [json.loads(data)["choices"][0] async for data in events(_once(body))]
    return "".join(each["text"] if "text" in each else each["delta"].get("content", "") for each in choices)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description="Replicas killed at random moments under load.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--clients", type=int, default=32, help="each has one prompt under way")
    parser.add_argument("--up-s", type=float, default=0.6, help="mean time that a replica lives")
    parser.add_argument("--attempts", type=int, default=ATTEMPTS, help="of the router for a prompt")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no replica is left behind
    began = time.perf_counter()
    with TemporaryDirectory(prefix="killed-replicas-") as name:
        key = Path(name) / "key"
        key.touch(0o600)
        key.write_text("key-of-the-benchmark")
        seen, router = asyncio.run(trial(options, Path(name)))
    told = figures(seen, router, time.perf_counter() - began)
    for text in [*seen.lost, *seen.wrong][:20]:
        print(text)
    print(json.dumps({"schema": 1, "config": vars(options), **told}))
    return 0 if seen.is_right and not router.ledger.in_flight else 1


async def trial(options: argparse.Namespace, folder: Path) -> tuple[Seen, Router]:
    """Run it; return what was seen, and the router."""
    trial = Trial(options, folder)
    await trial.run()
    return trial.seen, trial.router


def figures(seen: Seen, router: Router, wall_s: float) -> dict[str, Any]:
    """Return what the last line says."""
    return {
        "wall_s": round(wall_s, 1),
        "kills": seen.kills,
        "killed_with_requests": seen.killed_busy,
        "prompts": seen.asked,
        "answered": seen.answers.total(),
        "lost": len(seen.lost),
        "answered_with_anothers": len(seen.wrong),
        "answered_twice": sum(count > 1 for count in seen.answers.values()),
        "tried_again": router.counters.tried_again,
        "most_attempts": seen.most_attempts,
        "streams_broken_off_and_asked_again": seen.broken_off,
        "left_in_ledger": router.ledger.in_flight,
    }


if __name__ == "__main__":
    sys.exit(main())
