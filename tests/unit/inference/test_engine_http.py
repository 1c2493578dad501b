"""The stand-in engine behind HTTP: OpenAI's own client talks to it, and what is wrong is told."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from openai import AsyncOpenAI, AuthenticationError, BadRequestError, NotFoundError, OpenAI
from pydantic import SecretStr

from rhapsody.errors import SpecError
from rhapsody.inference.engine_core import Engine
from rhapsody.inference.engine_faults import Faults
from rhapsody.inference.engine_http import serving
from rhapsody.inference.engine_model import EngineModel
from rhapsody.inference.engine_pace import Pacer
from rhapsody.inference.engine_settings import StandInSettings
from rhapsody.inference.engine_texts import answer_part, nonce_of
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from rhapsody.inference.engine_core import Step
    from rhapsody.inference.engine_http import StandIn

MODEL = "stand-in/llm"
FAST = 1000.0
"""So quick that a test waits for HTTP only."""
HOUR_S = 3600.0


def settings(**given: Any) -> StandInSettings:  # noqa: ANN401 - fields of StandInSettings
    return StandInSettings(**{"model": "llm", "speed": FAST, **given})


@asynccontextmanager
async def client_of(server: StandIn, key: str = "none") -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=server.url, api_key=key, max_retries=0) as client:
        yield client


@asynccontextmanager
async def openai(**given: Any) -> AsyncIterator[AsyncOpenAI]:  # noqa: ANN401
    async with serving(settings(**given)) as server, client_of(server) as client:
        yield client


@asynccontextmanager
async def plain(**given: Any) -> AsyncIterator[tuple[StandIn, aiohttp.ClientSession]]:  # noqa: ANN401
    async with serving(settings(**given)) as server, aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as http:
        yield server, http


def asked(prompt: str = "one two three", **more: object) -> dict[str, object]:
    return {"model": MODEL, "prompt": prompt, **more}


# What clients of OpenAI see


async def test_a_completion_carries_the_nonce_of_its_prompt_and_as_many_words_as_were_asked_for() -> None:
    async with openai() as client:
        answer = await client.completions.create(model=MODEL, prompt="one two three", max_tokens=5)

    assert answer.choices[0].text == answer_part(nonce_of("one two three"), 0, 5)
    assert nonce_of("one two three") in answer.choices[0].text
    assert len(answer.choices[0].text.split()) == 5
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
    assert answer.model == MODEL


async def test_a_chat_answers_to_all_its_messages() -> None:
    async with openai() as client:
        answer = await client.chat.completions.create(
            model="llm",
            messages=[
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "Who?"}]},
            ],
            max_completion_tokens=4,
        )

    message = answer.choices[0].message
    assert message.role == "assistant"
    assert message.content == answer_part(nonce_of("Be brief.\nWho?"), 0, 4)
    assert answer.model == MODEL


async def test_a_chat_without_a_length_ends_by_itself() -> None:
    async with openai() as client:
        answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])

    assert answer.choices[0].finish_reason == "stop"


async def test_several_prompts_get_an_answer_each_in_their_order() -> None:
    async with openai() as client:
        answer = await client.completions.create(model=MODEL, prompt=["first", "second"], max_tokens=2)

    assert [choice.text for choice in answer.choices] == [answer_part(nonce_of(p), 0, 2) for p in ("first", "second")]


async def test_a_prompt_of_token_numbers_is_as_long_as_they_are_many() -> None:
    async with openai() as client:
        answer = await client.completions.create(model=MODEL, prompt=[5, 6, 7, 8], max_tokens=1)

    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 4
    assert nonce_of("5 6 7 8") in answer.choices[0].text


async def test_a_streamed_completion_is_the_whole_one_in_parts_with_the_usage_at_the_end() -> None:
    async with openai(speed=20.0) as client:
        stream = await client.completions.create(
            model=MODEL, prompt="one two", max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
        parts = [part async for part in stream]

    *texts, last = parts
    assert len(texts) > 1
    assert "".join(part.choices[0].text for part in texts) == answer_part(nonce_of("one two"), 0, 20)
    assert [part.choices[0].finish_reason for part in texts if part.choices[0].finish_reason] == ["length"]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 22


async def test_a_streamed_chat_is_the_whole_one_in_parts() -> None:
    async with openai(speed=20.0) as client:
        stream = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hi there"}], max_tokens=20, stream=True
        )
        deltas = [part.choices[0].delta async for part in stream]

    assert "".join(delta.content or "" for delta in deltas) == answer_part(nonce_of("Hi there"), 0, 20)
    assert [delta.role for delta in deltas if delta.role] == ["assistant"]


async def test_the_blocking_client_works_too_whole_and_streamed() -> None:
    def talk(url: str) -> tuple[str, str]:
        with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            whole = client.completions.create(model=MODEL, prompt="Hi", max_tokens=6)
            stream = client.completions.create(model=MODEL, prompt="Hi", max_tokens=6, stream=True)
            return whole.choices[0].text, "".join(part.choices[0].text for part in stream)

    async with serving(settings()) as server:
        whole, streamed = await asyncio.to_thread(talk, server.url)

    assert whole == streamed == answer_part(nonce_of("Hi"), 0, 6)


@pytest.mark.parametrize("form", ["base64", "float"])
async def test_embeddings_depend_on_their_text_alone(form: Any) -> None:  # noqa: ANN401
    async with openai() as client:
        answer = await client.embeddings.create(model=MODEL, input=["a", "b", "a"], encoding_format=form)
        short = await client.embeddings.create(model=MODEL, input="a", dimensions=3)

    first, second, third = (each.embedding for each in answer.data)
    if form == "float":
        assert len(first) == 64
        assert first == third != second
    assert answer.usage.prompt_tokens == 3
    assert len(short.data[0].embedding) == 3


async def test_the_model_is_listed_as_a_stand_in_with_its_context() -> None:
    async with openai(engine=EngineModel(max_model_len=100)) as client:
        [model] = [each async for each in client.models.list()]

    assert model.id == MODEL
    assert model.owned_by == "rhapsody stand-in"
    assert model.model_extra == {"max_model_len": 100}


async def test_a_thousand_requests_at_a_time_get_each_its_own_answer() -> None:
    answers: dict[str, str] = {}

    async def ask(http: aiohttp.ClientSession, prompt: str) -> None:
        async with http.post("/v1/completions", json=asked(prompt, max_tokens=3)) as answer:
            answers[prompt] = (await answer.json())["choices"][0]["text"]

    async with (
        serving(settings(speed=100.0)) as server,
        aiohttp.ClientSession(f"http://127.0.0.1:{server.port}", connector=aiohttp.TCPConnector(limit=0)) as http,
        asyncio.TaskGroup() as group,
    ):
        for number in range(1000):
            group.create_task(ask(http, f"prompt {number}"))

    assert answers == {prompt: answer_part(nonce_of(prompt), 0, 3) for prompt in answers}
    assert len(answers) == 1000


# What is refused


async def test_a_wrong_key_is_refused_and_the_right_one_is_not() -> None:
    async with serving(settings(key=SecretStr("right"))) as server:
        async with client_of(server, "wrong") as client:
            with pytest.raises(AuthenticationError, match="the key is missing or wrong"):
                await client.completions.create(model=MODEL, prompt="Hi")
        async with client_of(server, "right") as client:
            answer = await client.completions.create(model=MODEL, prompt="Hi")
        async with aiohttp.ClientSession() as http, http.get(f"{server.url}/models") as none:
            status = none.status

    assert answer.choices
    assert status == 401


async def test_an_unknown_model_is_told_the_one_that_there_is() -> None:
    async with openai() as client:
        with pytest.raises(NotFoundError, match="unknown model 'gpt'; valid: stand-in/llm") as caught:
            await client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "Hi"}])

    assert caught.value.code == "model_not_found"


async def test_a_prompt_over_the_context_is_refused_with_the_reason_and_leaves_nothing() -> None:
    async with serving(settings(engine=EngineModel(max_model_len=10))) as server, client_of(server) as client:
        with pytest.raises(BadRequestError, match="9 tokens of prompt and 2 of answer are more than the context of 10"):
            await client.completions.create(model=MODEL, prompt=["a", "a " * 9], max_tokens=2)

        assert server.pacer.engine.idle


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "body: Invalid JSON"),
        (b"\xff", "body: Invalid JSON"),
        (b"[" * 100_000, "body: Invalid JSON"),
        (b"[]", "body: Input should be"),
        (json.dumps({"model": MODEL}).encode(), "prompt: Field required"),
        (json.dumps(asked(max_tokens=0)).encode(), "max_tokens: Input should be greater than or equal to 1"),
        (json.dumps(asked(n=2)).encode(), "n: Input should be less than or equal to 1"),
        (json.dumps({"model": MODEL, "prompt": []}).encode(), "prompt: is empty; give a text"),
        (json.dumps({"model": MODEL, "prompt": [[]]}).encode(), "prompt: is empty; give a text"),
    ],
)
async def test_a_request_that_is_none_is_refused_in_the_shape_of_openai(body: bytes, reason: str) -> None:
    async with plain() as (_, http), http.post("/v1/completions", data=body) as answer:
        error = (await answer.json())["error"]

    assert answer.status == 400
    assert error["message"].startswith(reason)
    assert error["type"] == "invalid_request_error"


async def test_a_request_that_is_too_long_or_goes_nowhere_is_refused_in_the_same_shape() -> None:
    async with plain(max_body_bytes=1000) as (_, http):
        async with http.post("/v1/completions", json=asked("a" * 2000)) as long:
            too_long = (await long.json())["error"]["message"]
        async with http.get("/v1/completions") as wrong:
            not_allowed = (await wrong.json())["error"]["message"]
        async with http.get("/v1/nothing") as gone:
            not_found = (await gone.json())["error"]["message"]

    assert (long.status, too_long) == (413, "the request is longer than 1000 bytes; send less")
    assert (wrong.status, not_allowed) == (405, "GET /v1/completions: Method Not Allowed")
    assert (gone.status, not_found) == (404, "GET /v1/nothing: Not Found")


async def test_a_server_without_a_key_listens_on_this_machine_only() -> None:
    with pytest.raises(SpecError, match=r"host=0\.0\.0\.0 can be reached by others: give a key"):
        async with serving(settings(host="0.0.0.0")):  # noqa: S104 - it is refused
            pass


async def test_a_port_that_is_taken_is_told() -> None:
    async with serving(settings()) as server:
        with pytest.raises(SpecError, match=f"cannot listen on 127.0.0.1, port {server.port}"):
            async with serving(settings(port=server.port)):
                pass


# How it behaves


async def test_every_answer_says_who_gives_it_and_to_which_request() -> None:
    async with plain() as (_, http):
        async with http.post("/v1/completions", json=asked(), headers={"X-Request-Id": "mine-7"}) as whole:
            uid = (await whole.json())["id"]
        async with http.post("/v1/completions", json=asked(stream=True), headers={"X-Request-Id": "mine-8"}) as stream:
            lines = (await stream.text()).split("\n\n")
        async with http.get("/v1/nothing") as refused:
            pass

    assert uid == "cmpl-mine-7"
    assert [each.headers["X-Request-Id"] for each in (whole, stream)] == ["mine-7", "mine-8"]
    assert {each.headers["Server"] for each in (whole, stream, refused)} == {"rhapsody stand-in"}
    assert lines[-2:] == ["data: [DONE]", ""]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_goes_away_takes_its_request_out_of_the_engine(stream: bool) -> None:  # noqa: FBT001
    async with plain(speed=1.0) as (server, http):
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(post(http, asked(max_tokens=5000, stream=stream)))
            await eventually(lambda: server.pacer.counts.generated_tokens > 0)
            asking.cancel()

        await eventually(lambda: server.pacer.engine.idle, what="the engine has nothing to do")


async def test_a_server_that_drains_finishes_what_runs_and_takes_no_more() -> None:
    async with plain(speed=5.0) as (server, http), asyncio.TaskGroup() as group:
        running = group.create_task(post(http, asked(max_tokens=200)))
        await eventually(lambda: server.active == 1)
        draining = group.create_task(server.drain(HOUR_S))
        await eventually(lambda: server._draining)

        async with http.post("/v1/completions", json=asked()) as refused:
            error = (await refused.json())["error"]
        async with http.get("/health") as health:
            pass
        await draining

        assert (refused.status, refused.headers["Retry-After"], error["code"]) == (503, "1", "draining")
        assert health.status == 503
        assert (await running)[0] == 200


async def test_draining_ends_at_its_limit_and_says_what_is_left() -> None:
    async with plain(faults=Faults(hang_after=0)) as (server, http), asyncio.TaskGroup() as group:
        hanging = group.create_task(post(http, asked()))
        await eventually(lambda: server.active == 1)

        await server.drain(0.0)

        assert server.active == 1
        hanging.cancel()


async def post(http: aiohttp.ClientSession, body: dict[str, object]) -> tuple[int, str]:
    async with http.post("/v1/completions", json=body) as answer:
        return answer.status, await answer.text()


async def test_metrics_say_what_the_engine_did_and_that_it_is_a_stand_in() -> None:
    async with plain() as (_, http):
        await post(http, asked("one two three", max_tokens=5))
        async with http.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()

    figures = {line.split("{")[0]: float(line.split()[-1]) for line in lines if not line.startswith("#")}
    assert figures["standin_prompt_tokens_total"] == 3
    assert figures["standin_generation_tokens_total"] == 5
    assert figures["standin_steps_total"] == 5
    assert figures["standin_num_requests_running"] == figures["standin_kv_cache_usage"] == 0
    assert all("Stand-in, not measured" in line for line in lines if line.startswith("# HELP"))


async def test_behind_http_the_engine_does_the_steps_that_it_does_in_virtual_time() -> None:
    class Noting(Engine):
        steps: list[Step]

        def step(self) -> Step:
            step = super().step()
            self.steps.append(step)
            return step

    model = EngineModel(max_num_seqs=4, max_num_batched_tokens=16, kv_tokens=160, max_model_len=100)
    real, virtual = Noting(model), Noting(model)
    real.steps, virtual.steps = [], []
    pacer = Pacer(real, speed=FAST)

    tickets = [pacer.submit(5 + number, 20 + number, asyncio.Event()) for number in range(12)]
    for number in range(12):
        virtual.add(str(number + 1), 5 + number, 20 + number, 0.0)
    while not virtual.idle:
        virtual.step()
    for ticket in tickets:
        await ticket.finished.wait()

    assert real.steps == virtual.steps
    assert any(step.preempted for step in real.steps)
    assert [ticket.tokens for ticket in tickets] == [20 + number for number in range(12)]


# Failing on purpose


async def test_it_fails_after_so_many_requests_when_told_to() -> None:
    async with plain(faults=Faults(fail_after=2)) as (_, http):
        statuses = [(await post(http, asked()))[0] for _ in range(4)]

    assert statuses == [200, 200, 500, 500]


async def test_it_answers_in_another_order_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhapsody.inference.engine_faults.REORDER_WAIT_S", HOUR_S)
    order: list[str] = []

    async def ask(http: aiohttp.ClientSession, prompt: str) -> None:
        await post(http, asked(prompt))
        order.append(prompt)

    async with plain(faults=Faults(reorder=True)) as (server, http), asyncio.TaskGroup() as group:
        group.create_task(ask(http, "first"))
        await eventually(lambda: server.pacer.counts.steps == 16, what="the first answer is ready")
        group.create_task(ask(http, "second"))

    assert order == ["second", "first"]


async def test_an_answer_that_none_follows_goes_out_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhapsody.inference.engine_faults.REORDER_WAIT_S", 0.0)

    async with plain(faults=Faults(reorder=True)) as (_, http):
        statuses = [(await post(http, asked()))[0] for _ in range(3)]

    assert statuses == [200, 200, 200]


async def test_it_delays_requests_when_told_to() -> None:
    async with plain(faults=Faults(delay_s=HOUR_S)) as (server, http), asyncio.TaskGroup() as group:
        waiting = group.create_task(post(http, asked()))
        await eventually(lambda: server.active == 1)

        assert server.pacer.engine.idle
        waiting.cancel()
