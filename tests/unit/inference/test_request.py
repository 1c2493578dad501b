"""Requests read from their JSON, and errors of answers on their way to another process."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import InferenceError, RequestRefusedError, SpecError
from rhapsody.inference.client import events, words_of
from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS, EXPECTED_TOKENS_OUT, MOST_TOKENS_OUT, Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BODY = b'{"model": "m", "prompt": "a b c", "max_tokens": 7, "n": 2, "stream": true, "seed": 1.5, "new": [1]}'


def test_a_request_keeps_its_body_as_it_came() -> None:
    request = Request.parse(COMPLETIONS, BODY, within_s=3)

    assert request.body is BODY
    assert (request.model, request.wants_stream, request.within_s) == ("m", True, 3)
    assert (request.tokens_in, request.tokens_out) == (len(BODY) // 4 + 1, 14)


@pytest.mark.parametrize(
    ("path", "fields", "tokens_out"),
    [
        (CHAT, {"max_completion_tokens": 9}, 9),
        (CHAT, {"max_tokens": None}, EXPECTED_TOKENS_OUT),
        (CHAT, {"max_tokens": -5}, 0),
        (CHAT, {"max_tokens": 10**12}, MOST_TOKENS_OUT),
        (EMBEDDINGS, {"max_tokens": 5}, 0),
    ],
)
def test_tokens_of_an_answer_are_guessed_from_the_limit(path: str, fields: dict[str, object], tokens_out: int) -> None:
    assert Request.make(path, {"model": "m", **fields}).tokens_out == tokens_out


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"{}", b'{"model": "m", "stream": "yes"}', b'{"model": "\xff"}'])
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(SpecError, match="the body of a request to /v1/completions cannot be read"):
        Request.parse(COMPLETIONS, body)


def test_two_requests_have_two_uids() -> None:
    assert Request.parse(COMPLETIONS, BODY).uid != Request.parse(COMPLETIONS, BODY).uid


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
async def test_events_are_found_however_the_bytes_are_cut(size: int) -> None:
    stream = b': comment\n\ndata: {"a": 1}\r\n\r\ndata:two\n\ndata: [DONE]\n\n'

    async def parts() -> AsyncIterator[bytes]:
        for start in range(0, len(stream), size):
            yield stream[start : start + size]

    assert [data async for data in events(parts())] == [b'{"a": 1}', b"two"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too long", "code": 1}}', "too long"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"detail": "Not Found"}', "Not Found"),
        (b"Bad Gateway\n", "Bad Gateway"),
        (b"", "it gave no reason"),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_the_words_of_a_server_are_found_in_every_shape_of_error(body: bytes, words: str) -> None:
    assert words_of(body) == words


def test_errors_of_answers_survive_their_way_to_another_process() -> None:
    failed = pickle.loads(pickle.dumps(InferenceError("what", 503, b"words", "7")))  # noqa: S301 - made here
    refused = pickle.loads(pickle.dumps(RequestRefusedError("what", 422, b"words")))  # noqa: S301 - made here

    assert (str(failed), failed.status, failed.body, failed.retry_after) == ("what", 503, b"words", "7")
    assert (str(refused), refused.status, refused.body) == ("what", 422, b"words")
