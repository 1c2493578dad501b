"""What the router and the gateway add to a request: time, and requests per second, beside asking the server directly.

Run it with `python benchmarks/gateway.py`. The server is no model server: it answers after a fixed time, so that only
the way there is measured. Server and gateway are processes of their own. Direct and indirect runs take turns; each
figure is the median over the runs. Ends with exit code 1 if the router adds more than 1 ms at the 99th percentile, or
the gateway more than 10 % to the median answer.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import aiohttp
from aiohttp import web

from rhapsody.inference.client import Client
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import Replica
from rhapsody.inference.request import COMPLETIONS, Request
from rhapsody.inference.router import Router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

MODEL = "waits"
TOKEN = "token-of-the-benchmark"  # noqa: S105 - of nothing else
ANSWER_S, EVENTS = 0.1, 20
MOST_ROUTER_S, MOST_GATEWAY_SHARE = 1e-3, 0.10
PROMPT = "word " * 200


class Seen(NamedTuple):
    """One request: when the first byte and the last were there, from when it was due, and what the router says."""

    first_s: float
    last_s: float
    router_s: float = 0.0


class Run(NamedTuple):
    """Requests one after the other, and this process's CPU time for each, in seconds."""

    seen: list[Seen]
    cpu_s: float


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description="What router and gateway add to a request.")
    parser.add_argument("--rate", type=int, default=1000, help="requests a second through the router")
    parser.add_argument(
        "--gateway-rate", type=int, default=200, help="and through the gateway; streams a quarter of it"
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--role", choices=("server", "gateway"), help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        asyncio.run(serve() if options.role == "server" else stand_before(options.url))
        return 0
    with child("--role", "server") as server, child("--role", "gateway", "--url", server) as gateway:
        return asyncio.run(measured(options, server, gateway))


async def measured(options: argparse.Namespace, server: str, gateway: str) -> int:
    """Measure all; return the exit code."""
    ways = {"direct": server, "gateway": gateway}
    async with AsyncExitStack() as stack:
        client, router, session = await clients(stack, server)
        plain = {"direct": sends(client, server), "router": asks(router)}
        runs = await in_turns(options, plain, options.rate)
        print(f"{options.rate} requests/s, open loop, answers after {1e3 * ANSWER_S:g} ms")
        router_p99 = tell_router(runs)
        shares = []
        for stream, rate in ((False, options.gateway_rate), (True, options.gateway_rate // 4)):
            kind = f"streams of {EVENTS} events" if stream else "answers"
            print(f"{kind}, {rate}/s, open loop, {1e3 * ANSWER_S:g} ms each")
            posting = {name: posts(session, url, stream=stream) for name, url in ways.items()}
            shares.append(tell_gateway(await in_turns(options, posting, rate)))
        print("answers at once, 64 clients, each asks again and again")
        hurried = {name: posts(session, url, stream=False, at_once=True) for name, url in ways.items()}
        await tell_most(options, hurried)
    return 1 if router_p99 > MOST_ROUTER_S or max(shares) > 1 + MOST_GATEWAY_SHARE else 0


async def clients(stack: AsyncExitStack, server: str) -> tuple[Client, Router, aiohttp.ClientSession]:
    """Return who asks."""
    client = await stack.enter_async_context(Client())
    client.meet(Replica("server", server, MODEL))
    router = await stack.enter_async_context(Router())
    for number in range(4):
        router.add(Replica(f"r{number}", server, MODEL))
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return client, router, await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=headers))


def fields(*, stream: bool = False, at_once: bool = False) -> dict[str, object]:
    """Return a request's fields; a server that waits reads the limit of tokens as a flag."""
    return {"model": MODEL, "prompt": PROMPT, "max_tokens": 1 if at_once else 100, "stream": stream}


def sends(client: Client, server: str) -> Callable[[float], Awaitable[Seen]]:
    """Ask with the router's client, but without the router."""
    replica = Replica("server", server, MODEL)

    async def one(due: float) -> Seen:
        request = Request.make(COMPLETIONS, fields())
        reply = await client.send(replica, request, request.uid)
        await reply.whole()
        reply.close()
        past_s = time.perf_counter() - due
        return Seen(past_s, past_s)

    return one


def asks(router: Router) -> Callable[[float], Awaitable[Seen]]:
    """Ask the router."""

    async def one(due: float) -> Seen:
        answer = await router.ask(Request.make(COMPLETIONS, fields()))
        past_s = time.perf_counter() - due
        return Seen(past_s, past_s, answer.journey.router_s)

    return one


def posts(
    session: aiohttp.ClientSession, url: str, *, stream: bool, at_once: bool = False
) -> Callable[[float], Awaitable[Seen]]:
    """Ask a URL, as any client does."""
    body = fields(stream=stream, at_once=at_once)

    async def one(due: float) -> Seen:
        async with session.post(url + COMPLETIONS, json=body) as answer:
            await answer.content.readany()
            first_s = time.perf_counter() - due
            await answer.read()
            answer.raise_for_status()
        return Seen(first_s, time.perf_counter() - due)

    return one


async def in_turns(
    options: argparse.Namespace, ways: dict[str, Callable[[float], Awaitable[Seen]]], rate: int
) -> dict[str, list[Run]]:
    """Return the runs of each way; the first second or so of each warms up and is left out."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, one in ways.items():
            await open_loop(one, rate, 1.0)
            runs[name].append(await open_loop(one, rate, options.seconds))
    return runs


async def open_loop(one: Callable[[float], Awaitable[Seen]], rate: int, seconds: float) -> Run:
    """Ask at fixed times, whatever the answers do."""
    began, cpu_s = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (ahead_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(ahead_s)
            tasks.append(group.create_task(_awaited(one, due)))
    return Run([task.result() for task in tasks], (time.process_time() - cpu_s) / len(tasks))


async def _awaited(one: Callable[[float], Awaitable[Seen]], due: float) -> Seen:
    return await one(due)


async def tell_most(options: argparse.Namespace, ways: dict[str, Callable[[float], Awaitable[Seen]]]) -> None:
    """Print how many a second there can be."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, one in ways.items():
            rates[name].append(await closed_loop(one, options.seconds))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    told = ", ".join(f"{name} {rate:.0f}/s" for name, rate in middle.items())
    print(f"  {told}: {middle['gateway'] / middle['direct']:.2f} of direct")


async def closed_loop(one: Callable[[float], Awaitable[Seen]], seconds: float) -> float:
    """Return how many a second 64 clients get answered."""
    began = time.perf_counter()
    counts = [0] * 64

    async def ask_again(number: int) -> None:
        while time.perf_counter() - began < seconds:
            await one(0.0)
            counts[number] += 1

    async with asyncio.TaskGroup() as group:
        for number in range(len(counts)):
            group.create_task(ask_again(number))
    return sum(counts) / (time.perf_counter() - began)


def share_at(values: list[float], share: float) -> float:
    """Return a percentile."""
    return sorted(values)[int(share * (len(values) - 1))]


def over_runs(runs: list[Run], name: str, share: float) -> float:
    """Return the median over runs of a percentile."""
    return statistics.median(share_at([getattr(seen, name) for seen in run.seen], share) for run in runs)


def tell_router(runs: dict[str, list[Run]]) -> float:
    """Print what the router adds; return its 99th percentile."""
    for name, of in runs.items():
        middle, late = (1e3 * over_runs(of, "last_s", share) for share in (0.5, 0.99))
        cpu_us = 1e6 * statistics.median(run.cpu_s for run in of)
        print(f"  {name:8} median {middle:.2f} ms, p99 {late:.2f} ms, CPU time of the asking side {cpu_us:.0f} µs each")
    own = [over_runs(runs["router"], "router_s", share) for share in (0.5, 0.99)]
    print(f"  the router itself: median {1e3 * own[0]:.3f} ms, p99 {1e3 * own[1]:.3f} ms")
    return own[1]


def tell_gateway(runs: dict[str, list[Run]]) -> float:
    """Print direct, gateway and their ratios; return the ratio of medians."""
    for label, name in (("first byte", "first_s"), ("last byte", "last_s")):
        for share in (0.5, 0.99):
            direct, gateway = (over_runs(runs[way], name, share) for way in ("direct", "gateway"))
            ratio = statistics.median(
                share_at([getattr(seen, name) for seen in one.seen], share)
                / share_at([getattr(seen, name) for seen in other.seen], share)
                for one, other in zip(runs["gateway"], runs["direct"], strict=True)
            )
            times = f"direct {1e3 * direct:.2f} ms, gateway {1e3 * gateway:.2f} ms"
            print(f"  {label}, p{100 * share:g}: {times}: {ratio:.3f}")
    return over_runs(runs["gateway"], "last_s", 0.5) / over_runs(runs["direct"], "last_s", 0.5)


@contextmanager
def child(*arguments: str) -> Iterator[str]:
    """Run this script in another role; yield its URL."""
    argv = [sys.executable, __file__, *arguments]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.terminate()


@asynccontextmanager
async def listening(application: web.Application) -> AsyncIterator[str]:
    """Serve an application; give its URL."""
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=4096).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def serve() -> None:
    """Be the server, until killed."""
    application = web.Application()
    application.router.add_post(COMPLETIONS, answer)
    async with listening(application) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer after the fixed time, at once or in events."""
    asked = await request.json()
    if not asked["stream"]:
        if asked["max_tokens"] > 1:
            await asyncio.sleep(ANSWER_S)
        return web.json_response({"choices": [{"text": "word " * 50}]})
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(EVENTS):
        await asyncio.sleep(ANSWER_S / EVENTS)
        await response.write(b'data: {"choices": [{"text": "word "}]}\n\n')
    await response.write(b"data: [DONE]\n\n")
    return response


async def stand_before(url: str) -> None:
    """Be the gateway, until killed."""
    async with Router() as router, Gateway(router, "127.0.0.1", 0, TOKEN) as gateway:
        for number in range(4):
            router.add(Replica(f"r{number}", url, MODEL))
        print(gateway.url.removesuffix("/v1"), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    sys.exit(main())
