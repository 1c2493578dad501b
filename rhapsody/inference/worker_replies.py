"""Answers of an AI worker in the shapes that OpenAI's clients read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rhapsody.inference.engine_texts import packed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.inference.worker_model import Generated

DONE = b"data: [DONE]\n\n"


class Reply(NamedTuple):
    """How an answer is written.

    Attributes:
        uid: Of the answer.
        created: Seconds since 1970.
        model: Its name.
        chat: Whether it is for a chat, else for a completion.
    """

    uid: str
    created: int
    model: str
    chat: bool

    def whole(self, answers: Sequence[Generated]) -> bytes:
        """Return the answer in one piece."""
        found = []
        for index, answer in enumerate(answers):
            said: dict[str, Any] = {"text": answer.text}
            if self.chat:
                said = {"message": {"role": "assistant", "content": answer.text}}
            found.append({"index": index, **said, "logprobs": None, "finish_reason": answer.finish_reason})
        kind = "chat.completion" if self.chat else "text_completion"
        return msgspec.json.encode(self._envelope(kind) | {"choices": found, "usage": usage_of(answers)})

    def part(self, index: int, text: str, *, first: bool = False, finish_reason: str | None = None) -> bytes:
        """Return a piece of one choice, as an event."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        return self._event([{"index": index, **said, "logprobs": None, "finish_reason": finish_reason}])

    def usage(self, answers: Sequence[Generated]) -> bytes:
        """Return the event that holds the usage, behind all others."""
        return self._event([], usage=usage_of(answers))

    def _event(self, choices: list[dict[str, Any]], **more: object) -> bytes:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event(msgspec.json.encode(self._envelope(kind) | {"choices": choices, **more}))

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.uid, "object": kind, "created": self.created, "model": self.model}


def event(data: bytes) -> bytes:
    """Return one event of a stream."""
    return b"data: " + data + b"\n\n"


def usage_of(answers: Sequence[Generated]) -> dict[str, int]:
    """Return how long prompts and answers are together."""
    prompt, answer = sum(each.prompt_tokens for each in answers), sum(each.tokens for each in answers)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def embeddings(model: str, found: Sequence[tuple[list[float], int]], *, as_base64: bool) -> bytes:
    """Return vectors, each with the tokens of its prompt."""
    data = [
        {"object": "embedding", "index": index, "embedding": packed(vector) if as_base64 else vector}
        for index, (vector, _) in enumerate(found)
    ]
    read = sum(tokens for _, tokens in found)
    usage = {"prompt_tokens": read, "total_tokens": read}
    return msgspec.json.encode({"object": "list", "model": model, "data": data, "usage": usage})
