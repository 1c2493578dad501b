"""An AI worker as a process of a test, without a key."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp

from rhapsody.inference.request import COMPLETIONS
from rhapsody.node.processes import die_with_parent
from tests.eventually import eventually
from tests.unit.inference.replica_kinds import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Worker:
    """One that runs.

    Attributes:
        process: Its process.
        folder: Where its files lie.
    """

    def __init__(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        self.process = process
        self.folder = folder

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    async def started(self, within_s: float = 30) -> str:
        """Return its URL once it is there."""
        port = self.folder / "port"
        await eventually(lambda: port.exists() or self.process.poll() is not None, within_s=within_s)
        assert port.exists(), self.log
        return f"http://127.0.0.1:{int(port.read_text())}"

    async def ended(self) -> int:
        """Return its exit code once it has one."""
        await eventually(lambda: self.process.poll() is not None, within_s=30)
        return self.process.returncode


@contextmanager
def worker(folder: Path, loader: str, *more: str, python: str = sys.executable, **variables: str) -> Iterator[Worker]:
    """Run one, called m, with its files in a folder."""
    argv = [python, "-m", "rhapsody.inference.worker", "--model", "m", "--loader", loader]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*argv, "--port-file", str(folder / "port"), *more],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - tests have one thread
        )
    try:
        yield Worker(process, folder)
    finally:
        process.kill()
        process.wait()


async def said(url: str, prompt: str, **fields: object) -> str:
    """Return the text of an answer."""
    body = {"model": "m", "prompt": prompt, "max_tokens": 200, **fields}
    async with aiohttp.ClientSession(url) as http, http.post(COMPLETIONS, json=body) as answer:
        found = await answer.json()
    text: str = found["choices"][0]["text"] if answer.status == 200 else found["error"]["message"]
    return text
