"""The desk: AI tasks become requests, answers become reports, and every attempt is reported on once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from rhapsody.abc import Listener, Report
from rhapsody.errors import RequestRefusedError
from rhapsody.inference.desk import Desk
from rhapsody.inference.router import Limits
from rhapsody.model.ai import AITask, Usage
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from rhapsody.model.policy import Policy
from rhapsody.model.task import ComputeTask
from tests.eventually import eventually
from tests.unit.inference.model_server import MODEL, ModelServer, failing, hang, nonce
from tests.unit.inference.routing import LIMITS, routed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

ONE_AT_A_TIME = Limits(per_replica=1, tick_s=0.02)


class Ear(Listener):
    """Remembers what it heard.

    Attributes:
        batches: Reports, as they came.
    """

    def __init__(self) -> None:
        self.batches: list[list[Report]] = []

    def hear(self, reports: Sequence[Report]) -> None:
        self.batches.append(list(reports))

    def broken(self, reason: str) -> None:
        raise AssertionError(reason)

    def nodes_lost(self, nodes: Sequence[int], reason: str) -> None:
        raise AssertionError(f"{nodes}: {reason}")

    def of(self, task: AITask) -> list[Report]:
        return [report for batch in self.batches for report in batch if report.number == task.number]

    def end_of(self, task: AITask) -> Report:
        """Return the report of a task's end; it has exactly one."""
        (end,) = (report for report in self.of(task) if report.state is not State.RUNNING)
        return end

    def has_ended(self, *tasks: AITask) -> bool:
        ended = {report.number for batch in self.batches for report in batch if report.state is not State.RUNNING}
        return ended >= {task.number for task in tasks}


class Office:
    """A desk before small servers."""

    def __init__(self, desk: Desk, ear: Ear, servers: list[ModelServer]) -> None:
        self.desk, self.ear, self.servers = desk, ear, servers

    def launch(self, *tasks: AITask) -> None:
        for task in tasks:
            task.model = task.model or MODEL
            task.attempt += 1
        self.desk.launch(tasks)

    async def end_of(self, task: AITask) -> Report:
        await eventually(lambda: self.ear.has_ended(task), within_s=20)
        return self.ear.end_of(task)

    async def failure_of(self, task: AITask) -> tuple[str, str]:
        end = await self.end_of(task)
        assert (end.state, end.value) == (State.FAILED, None)
        assert end.failure is not None
        return str(end.failure.cause), end.failure.message

    async def ask(self, task: AITask) -> Report:
        self.launch(task)
        return await self.end_of(task)


@asynccontextmanager
async def opened(
    count: int = 1, limits: Limits = LIMITS, is_expected: Callable[[str], bool] = lambda _: False
) -> AsyncIterator[Office]:
    ear, ticks = Ear(), iter(range(1, 1_000_000))
    async with routed(count, limits) as (router, servers):
        desk = Desk(router, ear, lambda: next(ticks), is_expected)
        async with desk.running():
            yield Office(desk, ear, servers)


def done(value: object) -> ComputeTask:
    """Return a task that is done."""
    task = ComputeTask(abs, args=(1,))
    task.state, task.value = State.DONE, value
    return task


class TestAnswers:
    async def test_a_text_is_answered(self) -> None:
        async with opened() as office:
            task = AITask("hello")

            end = await office.ask(task)

            assert (end.state, end.value, end.attempt) == (State.DONE, nonce("hello"), 1)
            assert [report.state for report in office.ear.of(task)] == [State.RUNNING, State.DONE]
            assert 0 < office.ear.of(task)[0].started_ns == end.started_ns < end.ended_ns
            assert task.usage == Usage(1, 1)

    async def test_messages_and_texts_with_system_are_chats(self) -> None:
        asked: list[dict[str, Any]] = []

        async def listen(request: web.Request) -> None:
            asked.append({"path": request.path, **await request.json()})

        async with opened() as office:
            office.servers[0].behave = listen
            chat = [{"role": "user", "content": "hello"}]

            ends = [await office.ask(AITask(chat, max_tokens=3)), await office.ask(AITask("hello", system="Be brief"))]

            assert [end.value for end in ends] == [nonce("hello")] * 2
        assert asked[0] == {"path": "/v1/chat/completions", "model": MODEL, "messages": chat, "max_tokens": 3}
        assert asked[1]["messages"] == [{"role": "system", "content": "Be brief"}, *chat]

    async def test_a_batch_is_a_list_in_the_order_of_its_prompts(self) -> None:
        async with opened(2) as office:
            prompts = [f"prompt {number}" for number in range(300)]
            task = AITask(prompts)

            end = await office.ask(task)

            assert end.value == [nonce(prompt) for prompt in prompts]
            assert task.usage == Usage(300, 300)
            assert (await office.ask(AITask(["only"]))).value == [nonce("only")]

    async def test_embeddings_are_numbers(self) -> None:
        async with opened() as office:
            assert (await office.ask(AITask("a", embed=True))).value == [0.5, 0.25]
            assert (await office.ask(AITask(["a", "b"], embed=True))).value == [[0.5, 0.25]] * 2

    async def test_values_of_tasks_are_asked(self) -> None:
        async with opened() as office:
            first = done("one")

            assert (await office.ask(AITask(first))).value == nonce("one")
            assert (await office.ask(AITask([first, "two"]))).value == [nonce("one"), nonce("two")]
            assert (await office.ask(AITask([{"role": "user", "content": first}]))).value == nonce("one")
            assert (await office.ask(AITask("{} {}".format, args=[first, 2]))).value == nonce("one 2")

    async def test_a_call_of_a_tool_is_the_message_itself(self) -> None:
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]}

        async def call(_: web.Request) -> web.StreamResponse:
            return web.json_response({"choices": [{"message": message}]})

        async with opened() as office:
            office.servers[0].behave = call

            end = await office.ask(task := AITask([{"role": "user", "content": "x"}]))

            assert (end.value, task.usage) == (message, None)

    async def test_thousands_are_heard_of_in_few_batches(self) -> None:
        async with opened(2) as office:
            tasks = [AITask(f"prompt {number}") for number in range(2_000)]

            office.launch(*tasks)
            await eventually(lambda: office.ear.has_ended(*tasks), within_s=60)

            assert all(office.ear.end_of(task).value == nonce(str(task.prompt)) for task in tasks)
            assert len(office.ear.batches) < 2_000

    async def test_the_most_urgent_go_first(self) -> None:
        async with opened(limits=ONE_AT_A_TIME) as office:
            later = [AITask("later") for _ in range(200)]
            urgent = AITask("urgent", priority=5, policy=Policy(priority=5))

            office.launch(*later)
            office.launch(urgent)
            await eventually(lambda: office.ear.has_ended(*later, urgent), within_s=30)

            assert office.servers[0].prompts.index("urgent") < 100


class TestFailures:
    async def test_a_refusal_has_the_words_of_the_server(self) -> None:
        async with opened() as office:
            office.servers[0].behave = failing(400, "the prompt is too long")
            task = AITask("hello")

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.REFUSED
            assert message == "r1 refuses a request with status 400: the prompt is too long"
            failure = office.ear.end_of(task).failure
            assert failure is not None
            assert isinstance(failure.exception, RequestRefusedError)

    async def test_what_no_replica_answers_fails_with_what_the_last_one_said(self) -> None:
        async with opened(2) as office:
            for server in office.servers:
                server.behave = failing(500, "out of memory")
            task = AITask("hello")

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.MODEL
            assert "out of memory" in message

    async def test_a_model_that_nobody_serves_fails_and_the_others_are_named(self) -> None:
        async with opened() as office:
            task = AITask("hello", model="unheard-of")

            office.launch(task)

            assert await office.failure_of(task) == (
                "model",
                f"no model 'unheard-of' is served any more; models that are: {MODEL}",
            )

    @pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": [{"text": 5}]}, [1], "text"])
    async def test_what_is_no_answer_is_no_response(self, body: object) -> None:
        async def answer(_: web.Request) -> web.StreamResponse:
            return web.json_response(body)

        async with opened() as office:
            office.servers[0].behave = answer
            task = AITask("hello")

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.MODEL
            assert "r1 answered what OpenAI's API does not know" in message

    async def test_one_refused_prompt_fails_its_batch_and_the_rest_is_not_asked(self) -> None:
        async def refuse_bad(request: web.Request) -> web.StreamResponse | None:
            fields = await request.json()
            return await failing(400, "bad word")(request) if fields["prompt"] == "bad" else None

        async with opened(limits=ONE_AT_A_TIME) as office:
            office.servers[0].behave = refuse_bad
            task = AITask(["good", "bad", *["never"] * 500])

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.REFUSED
            assert "bad word; " in message
            assert message.endswith("of its 502 prompts had no answer yet")
            assert office.servers[0].prompts.count("never") < 400

    async def test_what_a_function_raises_is_the_failure(self) -> None:
        def broken(value: int) -> str:
            raise LookupError(f"no prompt for {value}")

        async with opened() as office:
            task = AITask(broken, args=[3])

            office.launch(task)

            assert await office.failure_of(task) == (
                "exception",
                "the function of its prompt raised LookupError: no prompt for 3",
            )
            failure = office.ear.end_of(task).failure
            assert failure is not None
            assert isinstance(failure.exception, LookupError)
            assert "in broken" in failure.traceback

    @pytest.mark.parametrize("error", [SystemExit, StopIteration])
    async def test_a_function_that_wants_to_end_the_process_does_not(self, error: type[BaseException]) -> None:
        def leave() -> str:
            raise error

        async with opened() as office:
            task = AITask(leave)

            office.launch(task)

            assert (await office.failure_of(task))[0] == Cause.EXCEPTION
            assert (await office.ask(AITask("hello"))).state is State.DONE

    @pytest.mark.parametrize("made", [None, 5, [], object()])
    async def test_a_function_that_makes_no_prompt_is_told_so(self, made: object) -> None:
        async with opened() as office:
            task = AITask(lambda: made)

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.ARGUMENTS
            assert "is no prompt" in message

    async def test_a_prompt_that_is_no_json_is_told_so(self) -> None:
        async with opened() as office:
            task = AITask([{"role": "user", "content": object()}])

            office.launch(task)

            assert (await office.failure_of(task))[0] == Cause.ARGUMENTS


class TestTime:
    async def test_an_answer_that_takes_too_long_is_not_waited_for(self) -> None:
        async with opened() as office:
            office.servers[0].behave = hang
            task = AITask("hello", timeout_s=0.1)

            office.launch(task)

            assert await office.failure_of(task) == ("timeout", f"no answer from {MODEL} within 0.1 s")
            await eventually(lambda: office.servers[0].aborted == 1)

    async def test_it_counts_for_a_batch_as_a_whole(self) -> None:
        async def hang_at_last(request: web.Request) -> web.StreamResponse | None:
            return await hang(request) if (await request.json())["prompt"] == "last" else None

        async with opened() as office:
            office.servers[0].behave = hang_at_last
            task = AITask(["first", "last"], timeout_s=1.0)

            office.launch(task)

            assert (await office.failure_of(task))[1] == f"no answer from {MODEL} within 1 s to 1 of its 2 prompts"

    async def test_what_is_cancelled_is_reported_when_its_connection_is_closed(self) -> None:
        async with opened() as office:
            office.servers[0].behave = hang
            task = AITask("hello")
            office.launch(task)
            await eventually(lambda: office.servers[0].running == 1)

            others = office.desk.cancel([(task.number, 1), (task.number, 2), (task.number + 1, 1)])

            assert others == [(task.number, 2), (task.number + 1, 1)]
            assert (await office.end_of(task)).state is State.CANCELED
            await eventually(lambda: office.servers[0].aborted == 1)

    async def test_what_still_waits_in_the_line_can_be_cancelled(self) -> None:
        async with opened(limits=ONE_AT_A_TIME) as office:
            office.servers[0].behave = hang
            tasks = [AITask("hello") for _ in range(200)]
            office.launch(*tasks)

            office.desk.cancel([(task.number, 1) for task in tasks])
            await eventually(lambda: office.ear.has_ended(*tasks))

            assert all(office.ear.end_of(task).state is State.CANCELED for task in tasks)
            office.servers[0].behave = None
            assert (await office.ask(AITask("hello"))).state is State.DONE

    async def test_what_is_left_at_the_end_is_cancelled_and_reported(self) -> None:
        tasks = [AITask("hello") for _ in range(500)]
        async with opened(limits=ONE_AT_A_TIME) as office:
            office.servers[0].behave = hang
            office.launch(*tasks)
            await eventually(lambda: office.servers[0].running == 1)

        assert all(office.ear.end_of(task).state is State.CANCELED for task in tasks)
        office.launch(late := AITask("late"))
        await eventually(lambda: office.ear.has_ended(late))
        assert office.ear.end_of(late).state is State.FAILED


class TestReplicas:
    async def test_requests_wait_for_a_model_that_is_expected(self) -> None:
        expected = {"other"}
        async with opened(is_expected=expected.__contains__) as office, ModelServer("r9", "other") as late:
            task = AITask("hello", model="other")
            office.launch(task)
            assert (await office.ask(AITask("at once"))).state is State.DONE
            assert not office.ear.of(task)

            office.desk._router.add(late.replica())
            office.desk.replicas_changed()

            assert (await office.end_of(task)).value == nonce("hello")

    async def test_they_fail_when_it_is_expected_no_more(self) -> None:
        expected = {"other", MODEL}
        async with opened(is_expected=expected.__contains__) as office:
            office.servers[0].behave = hang
            waiting, asked = AITask("hello", model="other"), AITask("hello")
            office.launch(waiting, asked)
            await eventually(lambda: office.servers[0].running == 1)
            office.desk._router.remove("r1")

            expected.clear()
            office.desk.replicas_changed()

            for task in (waiting, asked):
                assert (await office.failure_of(task))[1] == (
                    f"no model {task.model!r} is served any more; models that are: none"
                )

    async def test_they_survive_a_time_without_any_replica(self) -> None:
        limits = LIMITS._replace(ready_wait_s=0.05)
        async with opened(limits=limits, is_expected=lambda _: True) as office:
            (server,) = office.servers
            server.behave = hang
            tasks = [AITask(["a", "b"]), AITask("c")]
            office.launch(*tasks)
            await eventually(lambda: server.running == 3)

            office.desk._router.remove("r1")
            office.desk.replicas_changed()
            await eventually(lambda: len(office.desk._lines[MODEL].jobs) == 2)  # they gave up waiting at the router
            server.behave = None
            office.desk._router.add(server.replica())
            office.desk.replicas_changed()

            assert (await office.end_of(tasks[0])).value == [nonce("a"), nonce("b")]
            assert (await office.end_of(tasks[1])).value == nonce("c")

    async def test_a_server_of_others_that_is_gone_fails_what_waits_for_it(self) -> None:
        async with opened(limits=LIMITS._replace(ready_wait_s=0.1)) as office:
            await office.servers[0].kill()
            task = AITask("hello")

            office.launch(task)

            cause, message = await office.failure_of(task)
            assert cause == Cause.MODEL
            assert message.startswith(f"no replica of {MODEL} was ready for 0.1 s: r1 is ejected (cannot connect")

    async def test_a_defect_fails_what_is_asked_and_is_not_hidden(self) -> None:
        task = AITask("hello")
        ears: list[Ear] = []

        async def ask() -> None:
            async with opened() as office:
                ears.append(office.ear)
                office.desk._router.ask = _defect  # type: ignore[method-assign, assignment]
                office.launch(task)
                await asyncio.Event().wait()

        with pytest.raises(ExceptionGroup) as caught:
            await ask()

        assert caught.group_contains(ZeroDivisionError)
        assert "asks no models any more" in str(ears[0].end_of(task).failure)


async def _defect(_: object) -> None:
    raise ZeroDivisionError
