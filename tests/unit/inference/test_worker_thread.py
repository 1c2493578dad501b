"""A model in its thread: the event loop goes on, clients may go away, a model may hang or die."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import BackendError, InferenceError, SpecError
from rhapsody.inference.worker_model import Generated, Prompt
from rhapsody.inference.worker_queue import Kind
from rhapsody.inference.worker_thread import ModelThread
from tests.eventually import eventually
from tests.unit.inference.worker_models import HOLD, Echo, Moody, fails_to_load, fifo, no_model, release

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@asynccontextmanager
async def thread_of(model: object, max_batch: int = 4, max_wait_s: float = 0.0) -> AsyncIterator[ModelThread]:
    thread = ModelThread(lambda: model, max_batch, max_wait_s)
    thread.start()
    await thread.loaded
    try:
        yield thread
    finally:
        await thread.close(5)
        assert not thread.is_alive


async def test_a_thousand_prompts_are_answered_in_batches() -> None:
    async with thread_of(Moody(), max_batch=50, max_wait_s=0.05) as thread, asyncio.TaskGroup() as group:
        tasks = [group.create_task(thread.answers(Kind.GENERATE, [Prompt(f"p{number}")])) for number in range(1000)]

    assert [task.result()[0].text for task in tasks] == [f"p{number}" for number in range(1000)]
    assert thread.batches.counts.batches == 20


async def test_a_prompt_that_is_given_up_as_it_waits_never_reaches_the_model(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    model = Moody()
    async with thread_of(model) as thread, asyncio.TaskGroup() as group:
        held = group.create_task(thread.answers(Kind.GENERATE, [Prompt(f"{HOLD}{path}")]))
        await eventually(lambda: model.batches)
        given_up = group.create_task(thread.answers(Kind.GENERATE, [Prompt("given up")]))
        kept = group.create_task(thread.answers(Kind.GENERATE, [Prompt("kept")]))
        await eventually(lambda: len(thread.queue) == 2)
        given_up.cancel()
        await eventually(lambda: len(thread.queue) == 1)
        await release(path)

    assert held.result()[0].text.startswith(HOLD)
    assert kept.result()[0].text == "kept"
    assert model.batches[1:] == [["kept"]]


async def test_streams_take_turns_and_prompts_come_between() -> None:
    said: list[str] = []

    class Notes(Echo):
        def stream(self, prompt: Prompt) -> Iterator[Generated]:
            for letter in prompt.text:
                said.append(letter)
                yield Generated(letter, 1)

    async def read(thread: ModelThread, text: str) -> str:
        async with aclosing(thread.parts(Prompt(text))) as parts:
            return "".join([part.text async for part in parts])

    async with thread_of(Notes()) as thread, asyncio.TaskGroup() as group:
        first = group.create_task(read(thread, "aaaaaaaa"))
        second = group.create_task(read(thread, "bbbbbbbb"))
        between = group.create_task(thread.answers(Kind.GENERATE, [Prompt("c")]))

    assert (first.result(), second.result(), between.result()[0].text) == ("aaaaaaaa", "bbbbbbbb", "c")
    assert "".join(said) not in ("aaaaaaaabbbbbbbb", "bbbbbbbbaaaaaaaa")


async def test_a_stream_that_nobody_reads_any_more_is_ended_in_the_model() -> None:
    ended: list[int] = []

    class Endless(Echo):
        def stream(self, prompt: Prompt) -> Iterator[Generated]:
            made = 0
            try:
                while True:
                    made += 1
                    yield Generated(prompt.text, 1)
            finally:
                ended.append(made)

    async with thread_of(Endless()) as thread:
        async with aclosing(thread.parts(Prompt("a"))) as parts:
            await anext(parts)
            await anext(parts)

        await eventually(lambda: ended)

    assert ended == [2]  # each part is made when the one before it was taken


async def test_a_stream_that_fails_raises_what_the_model_said() -> None:
    class Fails(Echo):
        def stream(self, prompt: Prompt) -> Iterator[Generated]:
            yield Generated(prompt.text, 1)
            raise RuntimeError("out of memory")

    async with thread_of(Fails()) as thread, aclosing(thread.parts(Prompt("a"))) as parts:
        first = await anext(parts)
        with pytest.raises(InferenceError, match="the model failed: RuntimeError: out of memory"):
            await anext(parts)

    assert first.text == "a"


async def test_a_model_that_does_not_return_is_noticed_and_all_that_wait_are_told(tmp_path: Path) -> None:
    path = fifo(tmp_path)
    model = Moody()
    async with thread_of(model) as thread, asyncio.TaskGroup() as group:
        watch = group.create_task(thread.watch(0.1))
        with pytest.raises(InferenceError, match=r"the model has not returned from a call for 0\.1 s"):
            await thread.answers(Kind.GENERATE, [Prompt(f"{HOLD}{path}")])
        with pytest.raises(InferenceError, match="has not returned") as later:
            await thread.answers(Kind.GENERATE, [Prompt("later")])
        watch.cancel()
        await release(path)

    assert thread.broken.is_set()
    assert later.value.status == 503


async def test_a_model_that_is_not_asked_does_not_hang() -> None:
    async with thread_of(Echo()) as thread, asyncio.TaskGroup() as group:
        watch = group.create_task(thread.watch(0.02))
        answers = [await thread.answers(Kind.GENERATE, [Prompt(str(number))]) for number in range(200)]
        watch.cancel()

    assert len(answers) == 200
    assert not thread.broken.is_set()


@pytest.mark.parametrize("text", ["exit", "break"])
async def test_a_model_that_ends_fails_all_that_wait(text: str) -> None:
    async with thread_of(Moody(), max_batch=1) as thread:
        jobs = [asyncio.wait_for(thread.answers(Kind.GENERATE, [Prompt(each)]), 5) for each in (text, "later")]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_error_of(job)) for job in jobs]

    assert all(isinstance(task.result(), InferenceError) for task in tasks)
    assert thread.reason.startswith("the model has ended: ")


async def _error_of(awaitable: object) -> Exception | None:
    try:
        await awaitable  # type: ignore[misc]
    except InferenceError as exc:
        return exc
    return None


async def test_a_loader_that_fails_and_one_that_returns_no_model_say_so() -> None:
    for load, kind, reason in (
        (fails_to_load, BackendError, "the loader failed: RuntimeError: the weights are gone"),
        (no_model, SpecError, "the loader returned str"),
    ):
        thread = ModelThread(load, 1, 0)
        thread.start()
        with pytest.raises(kind, match=reason):
            await thread.loaded
        await thread.close(5)


async def test_a_model_is_closed_behind_the_last_answer() -> None:
    calls: list[str] = []

    class Closes(Echo):
        def close(self) -> None:
            calls.append("closed")

    async with thread_of(Closes()) as thread:
        await thread.answers(Kind.GENERATE, [Prompt("a")])
        assert calls == []

    assert calls == ["closed"]
