"""The stand-in engine as a command: where it listens, which key it wants, how it ends."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from rhapsody.errors import SpecError
from rhapsody.inference.engine_settings import KEY_VARIABLE, StandInSettings, read_key
from rhapsody.inference.engine_sim import main
from rhapsody.node.processes import die_with_parent
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "rhapsody.inference.engine_sim"]


@contextmanager
def started(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*COMMAND, *argv],
        stderr=subprocess.PIPE,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - tests have one thread
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


def key_file(folder: Path, key: str = "secret\n", mode: int = 0o600) -> Path:
    file = folder / "key"
    file.write_text(key)
    file.chmod(mode)
    return file


@asynccontextmanager
async def asked(port_file: Path, key: str = "none", **body: object) -> AsyncIterator[aiohttp.ClientResponse]:
    url = f"http://127.0.0.1:{int(port_file.read_text())}/v1/completions"
    shown = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession() as http,
        http.post(url, json={"model": "llm", "prompt": "Hi", **body}, headers=shown) as answer,
    ):
        yield answer


async def test_the_command_tells_its_port_wants_its_key_and_ends_on_sigterm(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    argv = [
        "--port-file",
        str(port_file),
        "--model",
        "llm",
        "--api-key-file",
        str(key_file(tmp_path)),
        "--speed",
        "100",
    ]
    with started(*argv) as process:
        await eventually(lambda: port_file.exists() or process.poll() is not None, within_s=30)

        async with asked(port_file, "secret") as answer:
            said = await answer.json()
        async with asked(port_file, "guess") as refused:
            pass
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)

    assert said["model"] == "stand-in/llm"
    assert refused.status == 401
    assert process.returncode == 0
    assert b"its answers and times are no model's" in errors
    assert stat.S_IMODE(port_file.stat().st_mode) == 0o600


async def test_the_command_cuts_off_what_outlasts_the_drain_and_says_so(tmp_path: Path) -> None:
    port_file = tmp_path / "port"
    with started("--port-file", str(port_file), "--model", "llm", "--drain-s", "0") as process:
        await eventually(lambda: port_file.exists() or process.poll() is not None, within_s=30)
        async with asked(port_file, max_tokens=5000, stream=True) as answer:
            process.send_signal(signal.SIGTERM)
            await eventually(lambda: process.poll() is not None, within_s=10)
            _, errors = process.communicate()
            with pytest.raises(aiohttp.ClientPayloadError):  # nobody takes it for the whole answer
                await answer.read()

    assert process.returncode == 1
    assert b"stand-in: requests cut off: 1" in errors


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    file = key_file(tmp_path, mode=0o640)

    with pytest.raises(SpecError, match=r"others may read it \(mode 640\); run: chmod 600"):
        read_key(file)


def test_an_empty_key_and_one_that_is_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is empty; write the key into it"):
        read_key(key_file(tmp_path, key=" \n"))
    with pytest.raises(SpecError, match="cannot read the key"):
        read_key(tmp_path / "gone")


def test_the_key_may_stand_in_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cret")

    key = read_key(None)

    assert key == "s3cret"
    assert "s3cret" not in repr(StandInSettings.model_validate({"key": key}))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--speed", "0"], "speed: Input should be greater than 0"),
        (["--max-num-seqs", "9999"], "each running sequence needs one token of a step"),
        (["--model", "a b"], "model: String should match pattern"),
        (["--api-key-file", "/nowhere/key"], "cannot read the key in /nowhere/key"),
    ],
)
def test_wrong_options_are_refused_with_the_reason(
    argv: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(argv)

    assert code == 2
    assert reason in capsys.readouterr().err


def test_the_package_can_be_imported_without_what_the_server_needs() -> None:
    script = (
        "import sys; sys.modules['aiohttp'] = None; import rhapsody.inference.engine_sim as s; sys.exit(s.main([]))"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)

    assert ended.returncode == 2
    assert "pip install 'rhapsody-hpc[vllm]'" in ended.stderr
