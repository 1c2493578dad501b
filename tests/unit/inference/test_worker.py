"""An AI worker as a command: how it starts, and the ways in which it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import aiohttp
import pytest

from rhapsody.inference.request import COMPLETIONS
from rhapsody.inference.worker import main
from rhapsody.inference.worker_loader import write_loader
from tests.eventually import eventually
from tests.requirements import needs_command
from tests.unit.inference.replica_kinds import VLLM_PYTHON
from tests.unit.inference.worker_models import HOLD, Calls, fifo, kept_waiting, refuses
from tests.unit.inference.worker_process import said, worker

if TYPE_CHECKING:
    from pathlib import Path

MODELS = "tests.unit.inference.worker_models"


async def test_a_loader_from_a_file_is_called_once_and_its_model_answers(tmp_path: Path) -> None:
    calls: list[int] = []

    def load() -> Calls:
        calls.append(1)
        return Calls(calls)

    write_loader(tmp_path / "loader", load)
    with worker(tmp_path, str(tmp_path / "loader")) as running:
        url = await running.started()

        first, second = await said(url, "a"), await said(url, "b")

    assert (first, second) == ("1", "1")


async def test_a_worker_whose_model_is_broken_answers_why_and_ends(tmp_path: Path) -> None:
    with worker(tmp_path, f"{MODELS}:Moody") as running:
        url = await running.started()

        told = await said(url, "break")

        assert await running.ended() == 1
    assert told == "the model failed: RuntimeError: no convergence"
    assert "worker: the model has ended: ModelBrokenError: the model fails at the smallest prompt" in running.log


async def test_a_worker_whose_model_hangs_tells_who_waits_and_ends(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    with worker(tmp_path, f"{MODELS}:Echo", "--hang-s", "0.3") as running:
        url = await running.started()

        told = await said(url, f"{HOLD}{path}")

        assert await running.ended() == 1
    assert told == "the model has not returned from a call for 0.3 s"


async def test_a_worker_that_is_told_to_end_as_it_loads_ends_at_once(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    options = ("--loader-options", f'{{"path": "{path}"}}')
    with worker(tmp_path, f"{MODELS}:held_load", *options) as running, kept_waiting(path) as waits:
        await eventually(waits, within_s=20)

        running.process.send_signal(signal.SIGTERM)

        assert await running.ended() == 0
    assert not (tmp_path / "port").exists()


async def test_a_second_signal_cuts_the_drain_short_and_what_is_cut_off_is_said(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    with worker(tmp_path, f"{MODELS}:Echo") as running:
        url = await running.started()
        async with asyncio.TaskGroup() as group, aiohttp.ClientSession(url) as http:
            asked = group.create_task(_error_of(http, f"{HOLD}{path}"))
            with kept_waiting(path) as waits:
                await eventually(waits)
                running.process.send_signal(signal.SIGTERM)
                await refuses(http)
                running.process.send_signal(signal.SIGTERM)

                assert await running.ended() == 1
    assert isinstance(asked.result(), aiohttp.ClientError)
    assert "worker: requests cut off: 1" in running.log


async def _error_of(http: aiohttp.ClientSession, prompt: str) -> Exception | None:
    try:
        async with http.post(COMPLETIONS, json={"model": "m", "prompt": prompt, "max_tokens": 200}) as answer:
            await answer.read()
    except aiohttp.ClientError as exc:
        return exc
    return None


@pytest.mark.parametrize(
    ("argv", "code", "reason"),
    [
        (["--loader", "nowhere"], 2, "neither MODULE:FUNCTION nor a file"),
        (["--loader", f"{MODELS}:no_model"], 2, "the loader returned str, which has neither"),
        (["--loader", f"{MODELS}:fails_to_load"], 1, "the loader failed: RuntimeError: the weights are gone"),
        (["--loader", f"{MODELS}:Echo", "--host", "0.0.0.0"], 2, "can be reached by others: give a key"),  # noqa: S104
        (["--loader", f"{MODELS}:Echo", "--api-key-file", "/nowhere/key"], 2, "cannot read the secret"),
        (["--loader", f"{MODELS}:Echo", "--port-file", "/nowhere/port"], 2, "cannot write the port to /nowhere/port"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_hangs(
    argv: list[str], code: int, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--model", "m", *argv]) == code
    assert reason in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        code = main(["--model", "m", "--loader", f"{MODELS}:fails_to_load", "--port", str(port)])

    assert code == 2
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--max-batch", "0"], ["--hang-s", "inf"], ["--loader-options", "[]"]])
def test_options_without_sense_are_refused(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--model", "m", "--loader", "a:b", *option])

    assert ended.value.code == 2
    assert f"argument {option[0]}: invalid" in capsys.readouterr().err


def test_a_worker_needs_little_of_what_the_package_needs() -> None:
    absent = "click cryptography jinja2 pydantic yaml rich prometheus_client openai cloudpickle"
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({absent.split()})); import rhapsody.inference.worker_serving"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)

    assert ended.returncode == 0, ended.stderr


def test_what_a_worker_lacks_is_said_with_the_command_that_mends_it() -> None:
    script = (
        "import sys; sys.modules['aiohttp'] = None; from rhapsody.inference.worker import main;"
        "sys.exit(main(['--model', 'm', '--loader', 'a:b']))"
    )

    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=30)

    assert ended.returncode == 2
    assert f"{sys.executable} -m pip install aiohttp msgspec cloudpickle" in ended.stderr


async def test_no_child_of_a_worker_sees_its_key(tmp_path: Path) -> None:
    key = "k" * 20
    with worker(tmp_path, f"{MODELS}:Environment", RHAPSODY_WORKER_API_KEY=key) as running:
        url = await running.started()
        headers = {"Authorization": f"Bearer {key}"}
        body = {"model": "m", "prompt": "RHAPSODY_WORKER_API_KEY"}
        async with aiohttp.ClientSession(url, headers=headers) as http, http.post(COMPLETIONS, json=body) as answer:
            found = await answer.json()

    assert found["choices"][0]["text"] == "not set"


@pytest.mark.vllm
@needs_command(VLLM_PYTHON, package="it by make vllm-cpu")
async def test_torch_uses_as_many_threads_as_the_worker_has_cores(tmp_path: Path) -> None:
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "")
    loader = "tests.unit.inference.torch_model:TellsThreads"
    with worker(tmp_path, loader, python=VLLM_PYTHON, **variables) as running:
        url = await running.started()

        threads = await said(url, "1")

    assert int(threads) == len(os.sched_getaffinity(0))
