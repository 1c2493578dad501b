"""`rhapsody gateway` as users start it: before real servers of the stand-in engine, alone and beside a run."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest
from pydantic import SecretStr

from rhapsody.inference.engine_http import StandIn, serving
from rhapsody.inference.engine_settings import StandInSettings
from rhapsody.inference.engine_texts import nonce_of
from rhapsody.services.endpoints import Endpoint, find_endpoint, publish, withdraw
from tests.eventually import eventually
from tests.integration.command import WITHIN_S
from tests.integration.looking import next_line, rhapsody, started

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL, OTHER = "stand-in/small", "stand-in/wide"
KEY = "key-of-the-engines"


class Open:
    """A gateway command that listens, by what it has printed."""

    def __init__(self, process: asyncio.subprocess.Process, rows: dict[str, str]) -> None:
        self.process = process
        self.rows = rows

    @property
    def key(self) -> Path:
        return Path(self.rows["key"])

    def client(self) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.rows["url"], api_key=self.key.read_text().strip(), max_retries=0)

    async def end(self) -> tuple[str, str]:
        """End it by Ctrl-C; return what it said since."""
        self.process.send_signal(signal.SIGINT)
        out, err = await asyncio.wait_for(self.process.communicate(), WITHIN_S)
        return out.decode(), err.decode()


@asynccontextmanager
async def opened(folder: Path, *args: str) -> AsyncIterator[Open]:
    async with started(folder, "gateway", *args) as process:
        rows: dict[str, str] = {}
        while "end it" not in rows:
            if not (line := await next_line(process)):
                pytest.fail((await process.communicate())[1].decode())
            label, _, text = line.rstrip("\n").partition("  ")
            rows[label] = text.strip()
        yield Open(process, rows)


@asynccontextmanager
async def engines(*models: str) -> AsyncIterator[list[StandIn]]:
    async with AsyncExitStack() as stack:
        settings = [StandInSettings(model=model, key=SecretStr(KEY), speed=50) for model in models]
        yield [await stack.enter_async_context(serving(each)) for each in settings]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The key of the engines."""
    file = tmp_path / "engines.key"
    file.write_text(KEY)
    file.chmod(0o600)
    return file


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run that tells of no service."""
    folder = tmp_path / "runs" / "study-20261121-120000-0001"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return folder


def tell(run_dir: Path, name: str, engine: StandIn, key_file: Path) -> None:
    """Let a run tell of an engine."""
    endpoint = Endpoint(
        name=name,
        url=engine.url,
        node="127.0.0.1",
        port=engine.port,
        models=(engine.settings.shown_model,),
        key_file=str(key_file),
    )
    publish(run_dir, endpoint)


async def test_named_servers_are_served_and_the_end_tells_what_was_answered(tmp_path: Path, key_file: Path) -> None:
    async with engines(MODEL, MODEL, OTHER) as (one, two, other):
        named = [f"--replica={MODEL}={one.url}", f"--replica={MODEL}={two.url}", f"--replica={OTHER}={other.url}"]
        async with opened(tmp_path, *named, f"--replica-key-file={key_file}") as gateway, gateway.client() as client:
            models = [model.id async for model in client.models.list()]
            answers = [await client.completions.create(model=MODEL, prompt=f"p{n}", max_tokens=2) for n in range(4)]
            mode = stat.S_IMODE(gateway.key.stat().st_mode)
            commands = await asyncio.to_thread(Path(f"/proc/{gateway.process.pid}/cmdline").read_bytes)
            key = gateway.key.read_text().strip()
            out, err = await gateway.end()

    assert models == [MODEL, OTHER]
    assert [nonce_of(f"p{n}") in answer.choices[0].text for n, answer in enumerate(answers)] == [True] * 4
    assert gateway.rows["models"] == f"{MODEL} (2 replicas), {OTHER}"
    assert f'OPENAI_API_KEY="$(cat {gateway.key})"' in gateway.rows["use it"]
    assert mode == 0o600
    assert key not in f"{gateway.rows}{out}{err}{commands!r}"
    assert (gateway.process.returncode, out, err) == (
        0,
        "ended: 4 answered, 0 refused, 0 failed, 0 given up by their clients\n",
        "",
    )
    assert not gateway.key.parent.exists()


async def test_servers_of_a_run_are_served_as_they_come_and_go(tmp_path: Path, run_dir: Path, key_file: Path) -> None:
    async with engines(MODEL, OTHER) as (one, other):
        tell(run_dir, "llm", one, key_file)
        async with opened(tmp_path) as gateway, gateway.client() as client:

            async def models() -> list[str]:
                return [model.id async for model in client.models.list()]

            before = await models()
            tell(run_dir, "wide", other, key_file)
            await eventually(lambda: find_endpoint(run_dir, "gateway").models == (MODEL, OTHER), within_s=WITHIN_S)
            both = await models()
            answer = await client.completions.create(model=OTHER, prompt="hello", max_tokens=2)
            withdraw(run_dir, "llm")
            await eventually(lambda: find_endpoint(run_dir, "gateway").models == (OTHER,), within_s=WITHIN_S)
            after = await models()
            told = find_endpoint(run_dir, "gateway")
            ways = await rhapsody(tmp_path, "connect", "gateway")
            _, err = await gateway.end()

    assert (before, both, after) == ([MODEL], [MODEL, OTHER], [OTHER])
    assert nonce_of("hello") in answer.choices[0].text
    assert (told.url, told.key_file) == (gateway.rows["url"], str(gateway.key))
    assert gateway.key.is_relative_to(run_dir)
    assert gateway.rows["url"] in ways.out
    assert err.splitlines() == [
        f"rhapsody: wide ({OTHER}) at {other.url} is there",
        f"rhapsody: llm ({MODEL}) at {one.url} has gone",
    ]
    assert [path.name for path in (run_dir / "endpoints").iterdir()] == ["wide.json"]


async def test_a_run_has_one_gateway_and_one_that_was_killed_is_followed_by_another(
    tmp_path: Path, run_dir: Path, key_file: Path
) -> None:
    async with engines(MODEL) as (engine,):
        tell(run_dir, "llm", engine, key_file)
        async with opened(tmp_path, run_dir.name) as first:
            second = await rhapsody(tmp_path, "gateway", run_dir.name)
            old_key = first.key.read_text()
            first.process.kill()
            await first.process.communicate()
        async with opened(tmp_path, run_dir.name) as third, third.client() as client:
            models = [model.id async for model in client.models.list()]
            new_key = third.key.read_text()
            await third.end()

    assert second.code == 2
    assert f"has a gateway, at {first.rows['url']}; how to use it: rhapsody connect" in second.err
    assert models == [MODEL]
    assert old_key != new_key


async def test_a_key_of_ones_own_is_used_and_kept(tmp_path: Path, key_file: Path) -> None:
    mine = tmp_path / "mine.key"
    mine.write_text("0123456789abcdef")
    mine.chmod(0o600)
    async with engines(MODEL) as (engine,):
        named = [f"--replica={MODEL}={engine.url}", f"--replica-key-file={key_file}", f"--key-file={mine}"]
        async with opened(tmp_path, *named) as gateway, gateway.client() as client:
            models = [model.id async for model in client.models.list()]
            await gateway.end()

    assert (gateway.key, models) == (mine, [MODEL])
    assert mine.read_text() == "0123456789abcdef"


async def test_servers_that_do_not_look_well_are_told_at_the_start(tmp_path: Path, key_file: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with engines(MODEL) as (engine,):
            named = [f"--replica={MODEL}={nobody}", f"--replica=big={engine.url}"]
            async with opened(tmp_path, *named, f"--replica-key-file={key_file}") as right_key:
                _, err = await right_key.end()
            async with opened(tmp_path, *named[1:]) as no_key:
                _, err_without = await no_key.end()

    assert f"replica-1 ({MODEL}) at {nobody} does not answer: Cannot connect to host" in err
    assert f"does not name 'big' among its models: {MODEL}" in err
    assert "answers with status 401: the key is missing or wrong" in err_without


async def test_a_request_under_way_does_not_hold_up_the_end(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        slow = await stack.enter_async_context(serving(StandInSettings(model=MODEL, speed=0.01)))
        gateway = await stack.enter_async_context(opened(tmp_path, f"--replica={MODEL}={slow.url}"))
        client = await stack.enter_async_context(gateway.client())
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(_error_of(client))
            await eventually(lambda: slow.active, within_s=WITHIN_S)

            out, _ = await gateway.end()

    assert gateway.process.returncode == 0
    assert "1 given up" in out or "1 failed" in out
    assert isinstance(asking.result(), openai.APIError)


async def _error_of(client: openai.AsyncOpenAI) -> openai.APIError:
    with pytest.raises(openai.APIError) as caught:
        await client.completions.create(model=MODEL, prompt="x", max_tokens=100)
    return caught.value


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "has no model server that can be reached; one is there from when it is ready"),
        (["nothing"], "there is no run 'nothing'"),
        (["--replica=m"], "--replica 'm' is no MODEL=URL, such as"),
        (["--replica=m=ftp://x"], "the URL of replica 'replica-1' is none such as"),
        (["--replica=m=http://127.0.0.1:1", "--policy=best"], "unknown routing policy 'best'; valid: least_tokens"),
        (["--replica=m=http://127.0.0.1:1", "--port=1"], "cannot listen on 127.0.0.1, port"),
        (["--replica=m=http://127.0.0.1:1", "--host=nowhere.invalid"], "cannot listen on nowhere.invalid"),
        (["--replica=m=http://127.0.0.1:1", "--key-file=open.key"], "but others may read or write it (mode 644)"),
        (["--replica=m=http://127.0.0.1:1", "--replica-key-file=open.key"], "but others may read or write it"),
        (["--replica=m=http://127.0.0.1:1", "--replica-key-file=no.key"], "cannot read the secret in no.key"),
        (["--replica=m=http://127.0.0.1:1", "--key-file=no/folder.key"], "cannot write the gateway's key to"),
        (["--replica=m=http://127.0.0.1:1", "--key-file=short.key"], "token has 5 characters; at least 16"),
        (["--replica-key-file=open.key"], "is the key of what --replica names, which is not given"),
    ],
)
async def test_wrong_input_is_refused_with_the_reason(
    tmp_path: Path, run_dir: Path, args: list[str], says: str
) -> None:
    (tmp_path / "open.key").write_text("0123456789abcdef")
    (tmp_path / "open.key").chmod(0o644)
    (tmp_path / "short.key").write_text("short")
    (tmp_path / "short.key").chmod(0o600)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        args = [f"--port={taken.getsockname()[1]}" if arg == "--port=1" else arg for arg in args]

        ended = await rhapsody(tmp_path, "gateway", *args)

    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err


async def test_what_to_install_is_told_where_a_package_is_missing(tmp_path: Path) -> None:
    (tmp_path / "aiohttp.py").write_text("raise ModuleNotFoundError('no aiohttp', name='aiohttp')")
    argv = [sys.executable, "-m", "rhapsody", "gateway", "--replica=m=http://127.0.0.1:1"]
    process = await asyncio.create_subprocess_exec(
        *argv, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stderr=asyncio.subprocess.PIPE
    )

    _, err = await asyncio.wait_for(process.communicate(), WITHIN_S)

    assert process.returncode == 2
    assert err == b"Error: the gateway needs the package aiohttp; pip install 'rhapsody-hpc[vllm]'\n"
