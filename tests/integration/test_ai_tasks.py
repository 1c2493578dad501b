"""AI tasks over servers that are killed, slow, or answer in another order; resumed runs; services; the gateway."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import openai
import pytest

from rhapsody import AITask, ComputeTask, Policy, Restart, ServiceTask, Session, SpecError, State, TaskFailed
from rhapsody.inference.engine_texts import nonce_of
from rhapsody.services.endpoints import find_endpoint, read_endpoints
from rhapsody.session.status import RunWatcher
from rhapsody.telemetry.metrics import measure
from tests.eventually import eventually
from tests.leftovers import processes
from tests.unit.inference.model_server import MODEL, ModelServer, failing, hang, nonce

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

SMALL = "stand-in/small"


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[Session]:
    """Return an open session of two cores."""
    async with session_in(tmp_path) as opened:
        yield opened
        await opened.cancel(opened.tasks)


def session_in(folder: Path, **options: object) -> Session:
    return Session(backend="local", cores=2, runs=folder / "runs", notify=lambda _: None, **options)  # type: ignore[arg-type]


@asynccontextmanager
async def engine(folder: Path, number: int, *faults: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Run a stand-in engine in a process of its own; give the process and its URL."""
    port = folder / f"{number}.port"
    argv = ["-m", "rhapsody.inference.engine_sim", "--model", "small", "--speed", "5", "--port-file", str(port)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *argv, *faults, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await eventually(lambda: port.exists() and port.read_text().strip(), within_s=30)
        yield process, f"http://127.0.0.1:{port.read_text().strip()}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def stand_in(name: str, *, speed: int = 20, **options: object) -> ServiceTask:
    """Return a service of stand-in engines."""
    argv = [
        "-m",
        "rhapsody.inference.engine_sim",
        "--model",
        "small",
        "--speed",
        str(speed),
        "--port",
        "{port}",
        "--drain-s",
        "5",
    ]
    restart = Restart(delay_s=0.0)
    return ServiceTask(name, executable=sys.executable, arguments=argv, models=[SMALL], restart=restart, **options)  # type: ignore[arg-type]


def _hanging_first(count: int) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
    """Return a behaviour: so many requests get no answer, then all is well."""
    left = iter(range(count))

    async def answer(request: web.Request) -> web.StreamResponse | None:
        return await hang(request) if next(left, None) is not None else None

    return answer


_VICTIM = """
import asyncio
from rhapsody import AITask, Session

async def main():
    async with Session(backend="local", cores=1, runs={runs!r}) as session:
        await session.connect_model({url!r}, {model!r})
        await session.submit([AITask(f"prompt {{number}}") for number in range(3)])
        await session.wait()

asyncio.run(main())
"""


class TestAnswers:
    async def test_each_carries_its_own_nonce_while_replicas_are_killed_slow_and_disordered(
        self, session: Session, tmp_path: Path
    ) -> None:
        faults: list[tuple[str, ...]] = [(), (), ("--delay-s", "0.05"), ("--reorder",)]
        async with AsyncExitStack() as stack:
            engines = [
                await stack.enter_async_context(engine(tmp_path, number, *given)) for number, given in enumerate(faults)
            ]
            for _, url in engines:
                await session.connect_model(url, SMALL)
            tasks = [AITask(f"prompt {number}", max_tokens=4 + number % 13) for number in range(400)]
            batches = [AITask([f"{number} of batch {which}" for number in range(20)]) for which in range(5)]
            await session.submit([*tasks, *batches])

            for done, (process, _) in zip((20, 60), engines, strict=False):
                await eventually(lambda done=done: sum(task.is_final for task in tasks) >= done, within_s=30)  # type: ignore[misc]
                process.send_signal(signal.SIGKILL)
            await session.wait()

        for number, task in enumerate(tasks):
            assert task.response.split()[0] == f"stand-in:{nonce_of(f'prompt {number}')}", task.failure
            assert len(task.response.split()) == 4 + number % 13
        for which, batch in enumerate(batches):
            firsts = [answer.split()[0] for answer in batch.response]
            assert firsts == [f"stand-in:{nonce_of(f'{number} of batch {which}')}" for number in range(20)]
        assert session.counts == {"DONE": 405}

    async def test_cancel_reaches_the_server(self, session: Session) -> None:
        async with ModelServer() as server:
            server.behave = hang
            await session.connect_model(server.replica().url, MODEL)
            tasks = [AITask(f"prompt {number}") for number in range(20)]
            await session.submit(tasks)
            await eventually(lambda: server.running == 20)

            await session.cancel(tasks)

            assert {task.state for task in tasks} == {State.CANCELED}
            await eventually(lambda: server.running == 0)
            assert server.aborted == 20

    async def test_closing_the_session_reaches_the_server_too(self, tmp_path: Path) -> None:
        async with ModelServer() as server:
            server.behave = hang
            session = await session_in(tmp_path)
            await session.connect_model(server.replica().url, MODEL)
            [task] = await session.submit(AITask("hello"))
            await eventually(lambda: server.running == 1)

            await session.aclose()

            assert task.state is State.CANCELED
            await eventually(lambda: server.aborted == 1)

    async def test_another_replica_is_tried_within_the_same_attempt(self, session: Session) -> None:
        async with ModelServer("r1") as broken, ModelServer("r2") as other:
            broken.behave = failing(500)
            for server in (broken, other):
                await session.connect_model(server.replica().url, MODEL)
            first = AITask("first")
            await session.submit(first)
            await first
            assert (first.attempt, first.response) == (1, nonce("first"))

    async def test_time_is_over_for_one_attempt_and_the_next_is_answered(self, session: Session) -> None:
        async with ModelServer() as server:
            server.behave = _hanging_first(1)
            await session.connect_model(server.replica().url, MODEL)
            slow, again = AITask("slow", timeout_s=0.2), AITask("again", timeout_s=0.2, retry=2)

            await session.submit(slow)
            with pytest.raises(TaskFailed, match=rf"no answer from {MODEL} within 0.2 s") as caught:
                await slow
            server.behave = _hanging_first(1)
            await session.submit(again)
            await again

            assert caught.value.cause == "timeout"
            assert (again.attempt, again.response) == (2, nonce("again"))


class TestRuns:
    async def test_a_resumed_run_does_not_ask_again(self, tmp_path: Path) -> None:
        def tasks() -> list[AITask]:
            made = AITask("{}".format, args=[ComputeTask(abs, args=(-3,))], model=MODEL)
            return [AITask("plain", model=MODEL), AITask(["a", "b"]), AITask("e", embed=True), made]

        async with ModelServer() as server:
            url = server.replica().url
            async with session_in(tmp_path) as first:
                await first.connect_model(url, MODEL)
                before = tasks()
                await first.submit([*before, before[-1].args[0]])
                await first.wait()
            asked = len(server.prompts)
            async with session_in(tmp_path, resume=first.run_dir) as second:
                await second.connect_model(url, MODEL)
                after = tasks()
                await second.submit([*after, after[-1].args[0], AITask("new")])
                await second.wait()

            assert [task.response for task in after] == [task.response for task in before]
            assert (asked, len(server.prompts)) == (5, 6)
            assert second.resumed is not None
            assert second.resumed.restored == 5

    async def test_what_was_asked_when_the_session_died_is_asked_again(self, tmp_path: Path) -> None:
        async with ModelServer() as server:
            server.behave = hang
            script = tmp_path / "victim.py"
            script.write_text(_VICTIM.format(url=server.replica().url, model=MODEL, runs=str(tmp_path / "runs")))
            victim = await asyncio.create_subprocess_exec(sys.executable, script)
            await eventually(lambda: server.running == 3, within_s=30)
            victim.kill()
            await victim.wait()
            server.behave = None
            (run_dir,) = (tmp_path / "runs").iterdir()
            async with session_in(tmp_path, resume=run_dir) as session:
                await session.connect_model(server.replica().url, MODEL)
                tasks = [AITask(f"prompt {number}") for number in range(3)]
                await session.submit(tasks)
                await session.wait()

            assert [task.response for task in tasks] == [nonce(f"prompt {number}") for number in range(3)]
            assert {task.attempt for task in tasks} == {2}

    async def test_status_and_report_tell_of_them_and_count_no_cores(self, session: Session) -> None:
        async with ModelServer() as server:
            await session.connect_model(server.replica().url, MODEL)
            tasks = [AITask(f"prompt {number}") for number in range(10)]
            await session.submit(tasks)
            await session.wait()
            server.behave = failing(400, "no")
            await session.submit(AITask("refused"))
            await session.wait()
            server.behave = hang
            await session.submit(waiting := AITask("waiting"))
            await eventually(lambda: waiting.state is State.RUNNING)

            status = RunWatcher(session.run_dir).look()
            figures = measure(session.run_dir)

        assert status.counts == {State.DONE: 10, State.FAILED: 1, State.RUNNING: 1}
        assert [(kind.label, kind.tasks) for kind in status.running] == [(MODEL, 1)]
        assert [(cause.cause, cause.tasks) for cause in status.failures] == [("refused", 1)]
        assert "refuses a request with status 400: no" in status.failures[0].example
        assert (figures.decisions.count, figures.arrivals.count) == (12, 0)
        assert [(family.kind, family.accepted, family.cores) for family in figures.families] == [("ai", 12, 0)]
        assert figures.width is None or not figures.width.peak


class TestServers:
    async def test_one_that_is_not_there_is_refused_at_once(self, session: Session) -> None:
        async with ModelServer() as server:
            url = server.replica().url
        with pytest.raises(SpecError, match=r"the model server at http\S+ does not answer"):
            await session.connect_model(url, MODEL)
        with pytest.raises(SpecError, match="no model to ask"):
            await session.submit(AITask("hello"))

    async def test_an_unknown_model_is_refused_and_the_known_ones_are_named(self, session: Session) -> None:
        async with ModelServer("r1", "alpha") as alpha, ModelServer("r2", "beta") as beta:
            for server in (alpha, beta):
                await session.connect_model(server.replica().url, server.model)

            with pytest.raises(SpecError, match="unknown model 'gamma'; valid: alpha, beta"):
                await session.submit(AITask("hello", model="gamma"))
            with pytest.raises(SpecError, match="say which model it asks: model=…; models: alpha, beta"):
                await session.submit(AITask("hello"))
            await session.submit(named := AITask("hello", model="beta"))
            await named

            assert (alpha.prompts, beta.prompts) == ([], ["hello"])

    async def test_a_routing_policy_that_does_not_exist_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(SpecError, match="unknown routing policy 'fastest'; valid: least_tokens"):
            session_in(tmp_path, policy=Policy(routing="fastest"))


class TestServices:
    async def test_tasks_wait_for_a_service_and_are_answered_by_it(self, session: Session) -> None:
        llm = stand_in("llm", replicas=2)
        with pytest.raises(SpecError, match="service 'llm' serves no models in this session; services that do: none"):
            await session.submit(AITask("hello", service=llm))
        await session.start(llm)
        by_service, by_model = AITask("one", service=llm, max_tokens=2), AITask("two", model=SMALL, max_tokens=2)
        await session.submit([by_service, by_model])

        await session.wait([by_service, by_model], timeout_s=60)

        assert by_service.response.startswith(f"stand-in:{nonce_of('one')}"), by_service.failure
        assert by_model.response.startswith(f"stand-in:{nonce_of('two')}")
        assert by_model.label == SMALL
        assert by_model.gate is llm.gate

    async def test_a_replica_that_is_killed_loses_no_request(self, session: Session) -> None:
        llm = await (await session.start(stand_in("llm", speed=2))).ready(timeout_s=60)
        tasks = [AITask(f"prompt {number}", max_tokens=20) for number in range(100)]
        await session.submit(tasks)
        await eventually(lambda: any(task.is_final for task in tasks), within_s=30)

        port = b"--port\0%d\0" % llm.endpoints[0].port
        (pid,) = (each.pid for each in processes().values() if port in each.command)
        os.kill(pid, signal.SIGKILL)
        await session.wait(tasks, timeout_s=100)

        assert [task.failure for task in tasks] == [None] * 100
        assert all(task.response.split()[0] == f"stand-in:{nonce_of(str(task.prompt))}" for task in tasks)

    async def test_a_service_that_fails_fails_what_waits_for_it(self, session: Session) -> None:
        broken = ServiceTask("broken", executable="false", models=["none"], restart=Restart(limit=0))
        await session.start(broken)
        task = AITask("hello", service=broken)
        await session.submit(task)

        with pytest.raises(TaskFailed, match=r"service\.broken, which it depends on, ended FAILED"):
            await task


class TestGateway:
    async def test_one_address_for_all_models_with_a_key_in_a_file(self, tmp_path: Path) -> None:
        session = await session_in(tmp_path)
        async with ModelServer("r1", "alpha") as alpha, ModelServer("r2", "beta") as beta:
            await session.connect_model(alpha.replica().url, "alpha")
            gateway = await session.gateway()
            assert find_endpoint(session.run_dir, "gateway").models == ("alpha",)
            await session.connect_model(beta.replica().url, "beta")

            endpoint = find_endpoint(session.run_dir, "gateway")
            assert (endpoint.url, endpoint.models) == (gateway.url, ("alpha", "beta"))
            assert gateway.key_file.stat().st_mode & 0o777 == 0o600
            key = gateway.key_file.read_text().strip()
            async with openai.AsyncOpenAI(base_url=gateway.url, api_key=key, max_retries=0) as client:
                answer = await client.completions.create(model="beta", prompt="hello")

            assert answer.choices[0].text == nonce("hello")
            assert await session.gateway() is gateway
            with pytest.raises(SpecError, match="it has no other port"):
                await session.gateway(port=1)
            run_dir = session.run_dir
            await session.aclose()
            assert read_endpoints(run_dir) == []
            assert not gateway.key_file.exists()


async def test_a_session_that_asks_no_models_loads_no_http_library(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom rhapsody import ComputeTask, Session\n"
        "async def main():\n"
        f"    async with Session(backend='local', cores=1, runs={str(tmp_path)!r}) as session:\n"
        "        await session.submit(ComputeTask(abs, args=(1,)))\n"
        "asyncio.run(main())\nprint([name for name in ('aiohttp', 'prometheus_client') if name in sys.modules])"
    )

    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
