"""The life of an AI worker: its model is loaded, served, drained, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from rhapsody.errors import SpecError
from rhapsody.inference.replica import read_secret
from rhapsody.inference.worker_http import WorkerServer, WorkerSettings
from rhapsody.inference.worker_loader import bind_threads, load_model
from rhapsody.inference.worker_thread import ModelThread
from rhapsody.node.files import write_whole

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

KEY_VARIABLE = "RHAPSODY_WORKER_API_KEY"
_LOCAL = ("127.0.0.1", "::1", "localhost")
_CUT_S = 0.05
_LAST_WORDS_S = 1.0
"""For clients to be told that the model is broken."""
_CLOSE_S = 10.0


class Ended(NamedTuple):
    """How serving ended.

    Attributes:
        code: For the shell: 1 if the model broke or answers were cut off.
        at_once: The model's thread is still busy, and nobody waits for it.
    """

    code: int
    at_once: bool


async def run(options: argparse.Namespace) -> Ended:
    """Load a model and serve it until SIGTERM or Ctrl-C.

    Args:
        options: As `python -m rhapsody.inference.worker` reads them.

    Raises:
        SpecError: An option is wrong, or the loader returned no model.
        BackendError: The loader failed.
    """
    settings = WorkerSettings(options.model, _key(options.api_key_file), options.max_body_bytes)
    if not settings.key and options.host not in _LOCAL:
        raise SpecError(f"--host {options.host} can be reached by others: give a key, or listen on 127.0.0.1")
    bind_threads()
    told_to_end, at_once = _hear_signals()
    with closing(_bound(options.host, options.port)) as listener:
        load = partial(load_model, options.loader, options.loader_options)
        thread = ModelThread(load, options.max_batch, options.max_wait_ms / 1000)
        thread.start()
        await _first_of(told_to_end.wait(), asyncio.wait([thread.loaded]))
        if not thread.loaded.done():
            return Ended(0, at_once=True)
        server = WorkerServer(settings, thread.loaded.result(), thread)
        async with _serving(server, listener):
            _tell(options, listener)
            code = await _until_end(server, thread, options, told_to_end, at_once)
        await thread.close(0.0 if thread.reason or at_once.is_set() else _CLOSE_S)
    return Ended(code, thread.is_alive)


async def _until_end(
    server: WorkerServer,
    thread: ModelThread,
    options: argparse.Namespace,
    told_to_end: asyncio.Event,
    at_once: asyncio.Event,
) -> int:
    """Serve; return the exit code."""
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(thread.watch(options.hang_s))
        await _first_of(told_to_end.wait(), thread.broken.wait())
        if not thread.reason:
            await _first_of(at_once.wait(), server.drain(options.drain_s))
        watch.cancel()
    if thread.reason:
        sys.stderr.write(f"worker: {thread.reason}\n")
        await server.drain(_LAST_WORDS_S)
        return 1
    if server.active:
        sys.stderr.write(f"worker: requests cut off: {server.active}\n")
    return 1 if server.active else 0


async def _first_of(*awaitables: Awaitable[object]) -> None:
    """Wait for one of them; cancel the others."""

    async def wait(awaitable: Awaitable[object]) -> None:
        await awaitable

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(wait(awaitable)) for awaitable in awaitables]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def _serving(server: WorkerServer, listener: socket.socket) -> AsyncIterator[None]:
    # Handlers are cancelled when their client goes, and with them what waits for the model.
    runner = web.AppRunner(server.app, handler_cancellation=True, access_log=None, shutdown_timeout=_CUT_S)
    await runner.setup()
    try:
        await web.SockSite(runner, listener, backlog=4096).start()
        yield
    finally:
        await runner.cleanup()


def _hear_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Return what the first SIGTERM or Ctrl-C sets, and what the second does."""
    told_to_end, at_once = asyncio.Event(), asyncio.Event()

    def hear() -> None:
        (at_once if told_to_end.is_set() else told_to_end).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, hear)
    return told_to_end, at_once


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that has its port, but lets nobody in yet: one that is taken is told before the model loads."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except OSError as exc:
        raise SpecError(f"cannot listen on {host}, port {port}: {exc.strerror}; port 0 picks a free one") from exc
    return listener


def _tell(options: argparse.Namespace, listener: socket.socket) -> None:
    host, port = listener.getsockname()[:2]
    if options.port_file is not None:
        try:
            write_whole(options.port_file, f"{port}\n".encode())
        except OSError as exc:
            raise SpecError(f"cannot write the port to {options.port_file}: {exc.strerror}") from exc
    shown = f"[{host}]" if ":" in host else host
    sys.stderr.write(f"worker: {options.model} at http://{shown}:{port}/v1\n")
    sys.stderr.flush()


def _key(file: Path | None) -> str:
    """Return the key from a file, else from the environment, from where it goes so that no child has it."""
    given = os.environ.pop(KEY_VARIABLE, "").strip()
    return read_secret(file) if file is not None else given
