"""The gateway over stand-in engines, as the real clients see it: OpenAI's own, and LangChain's."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import SecretStr

from rhapsody.inference.engine_http import serving
from rhapsody.inference.engine_model import EngineModel
from rhapsody.inference.engine_settings import StandInSettings
from rhapsody.inference.engine_texts import embedding, nonce_of
from rhapsody.inference.gateway import Gateway
from rhapsody.inference.replica import Replica
from rhapsody.inference.router import Router

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MODEL, OTHER = "stand-in/small", "stand-in/wide"
TOKEN = "token-of-the-gateway"  # noqa: S105 - of these tests
KEY = "key-of-the-engines"
CONTEXT = 64


@asynccontextmanager
async def gateway() -> AsyncIterator[Gateway]:
    """Two stand-in engines for one model, and one for another, which want a key, behind a gateway."""
    async with AsyncExitStack() as stack:
        router = await stack.enter_async_context(Router("round_robin"))
        for uid, model in (("r1", MODEL), ("r2", MODEL), ("r3", OTHER)):
            engine = EngineModel(max_model_len=CONTEXT)
            settings = StandInSettings(model=model, key=SecretStr(KEY), speed=50, engine=engine)
            stand_in = await stack.enter_async_context(serving(settings))
            router.add(Replica(uid, stand_in.url, model, lambda: KEY))
        yield await stack.enter_async_context(Gateway(router, "127.0.0.1", 0, TOKEN))


@asynccontextmanager
async def openais_client(token: str = TOKEN) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway() as at, openai.AsyncOpenAI(base_url=at.url, api_key=token, max_retries=0) as client:
        yield client


# OpenAI's own client


async def test_a_completion_is_that_of_its_own_prompt_with_its_usage() -> None:
    async with openais_client() as client:
        answers = [
            await client.completions.create(model=MODEL, prompt=f"prompt number {number}", max_tokens=8)
            for number in range(4)
        ]

    for number, answer in enumerate(answers):
        assert nonce_of(f"prompt number {number}") in answer.choices[0].text
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 8)


async def test_several_prompts_in_one_request_are_answered_in_their_order() -> None:
    asked = ["one", "two"]
    async with openais_client() as client:
        answer = await client.completions.create(model=MODEL, prompt=asked, max_tokens=2)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert [choice.text.split()[0] for choice in answer.choices] == [f"stand-in:{nonce_of(text)}" for text in asked]


async def test_a_chat_is_answered_and_streams_hold_the_same_text_and_the_usage() -> None:
    async with openais_client() as client:
        whole = await client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "hi"}], max_completion_tokens=12
        )
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hi"}],
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]

    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert nonce_of("hi") in text
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12


@pytest.mark.parametrize("given", ["hello there", ["hello there", "bye"]])
async def test_embeddings_come_as_the_client_asks_for_them_by_itself(given: str | list[str]) -> None:
    async with openais_client() as client:
        answer = await client.embeddings.create(model=OTHER, input=given)

    texts = [given] if isinstance(given, str) else given
    for text, found in zip(texts, answer.data, strict=True):
        assert found.embedding == pytest.approx(embedding(text), abs=1e-6)


async def test_models_are_listed_and_each_is_answered_by_its_own_servers() -> None:
    async with openais_client() as client:
        models = [model.id async for model in client.models.list()]
        answers = [await client.completions.create(model=model, prompt="x", max_tokens=1) for model in models]

    assert models == [MODEL, OTHER]
    assert [answer.model for answer in answers] == models


async def test_a_wrong_key_an_unknown_model_and_a_prompt_over_the_context_are_told_apart() -> None:
    async with gateway() as at, openai.AsyncOpenAI(base_url=at.url, api_key=TOKEN, max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="the gateway wants its token"):
            await client.with_options(api_key="wrong").models.list()
        with pytest.raises(openai.NotFoundError, match=f"no model 'big'; models: {MODEL}, {OTHER}"):
            await client.completions.create(model="big", prompt="x")
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match=f"more than the context of {CONTEXT} tokens; shorten"):
                await client.completions.create(model=MODEL, prompt="word " * 100, max_tokens=8, stream=stream)


# LangChain's


@asynccontextmanager
async def langchain(model: str = MODEL) -> AsyncIterator[dict[str, Any]]:
    """Give what its classes are told; its own HTTP client would stay open for ever."""
    async with gateway() as at, openai.DefaultAsyncHttpxClient() as http:
        yield {
            "base_url": at.url,
            "api_key": SecretStr(TOKEN),
            "model": model,
            "max_retries": 0,
            "http_async_client": http,
        }


async def test_langchain_chats() -> None:
    async with langchain() as told:
        answer = await ChatOpenAI(**told, max_tokens=5).ainvoke([SystemMessage("be short"), HumanMessage("hi")])

    assert nonce_of("be short\nhi") in str(answer.content)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == 5


async def test_langchain_streams() -> None:
    async with langchain() as told:
        chunks = [chunk async for chunk in ChatOpenAI(**told, max_tokens=9).astream("hi")]

    assert len(chunks) > 2
    assert nonce_of("hi") in "".join(str(chunk.content) for chunk in chunks)


async def test_langchain_answers_a_batch_in_its_order() -> None:
    prompts = [f"prompt number {number}" for number in range(12)]
    async with langchain() as told:
        answers = await ChatOpenAI(**told, max_tokens=5).abatch(list(prompts))

    assert [str(answer.content).split()[0] for answer in answers] == [f"stand-in:{nonce_of(text)}" for text in prompts]


async def test_langchain_embeds_texts_when_it_leaves_the_tokens_to_the_server() -> None:
    async with langchain(OTHER) as told:
        embeddings = OpenAIEmbeddings(**told, check_embedding_ctx_length=False)
        found = await embeddings.aembed_documents(["hello there", "bye"])
        query = await embeddings.aembed_query("bye")

    assert found == [pytest.approx(embedding(text), abs=1e-6) for text in ("hello there", "bye")]
    assert query == found[1]


async def test_langchain_passes_on_what_the_server_has_against_a_prompt() -> None:
    async with langchain() as told:
        with pytest.raises(openai.BadRequestError, match=f"more than the context of {CONTEXT} tokens"):
            await ChatOpenAI(**told).ainvoke("word " * 100)


async def test_langchain_hears_of_an_unknown_model() -> None:
    async with langchain("big") as told:
        with pytest.raises(openai.NotFoundError, match="no model 'big'"):
            await ChatOpenAI(**told).ainvoke("hi")
