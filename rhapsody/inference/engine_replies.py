"""Answers of the stand-in engine in the shapes that OpenAI's clients read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from aiohttp import web

from rhapsody.inference.engine_texts import answer_part

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from rhapsody.inference.engine_pace import Ticket

MAKER = "rhapsody stand-in"
"""Who answers: no model, and nothing that was measured."""


class Choice(NamedTuple):
    """One of the answers to a request.

    Attributes:
        nonce: Of its prompt.
        ticket: The request in the engine.
    """

    nonce: str
    ticket: Ticket


class Reply(NamedTuple):
    """How an answer is written.

    Attributes:
        uid: Of the answer.
        created: Seconds since 1970.
        model: Name of the stand-in.
        chat: Whether it is for a chat, else for a completion.
        ends_by_itself: No length was asked for.
    """

    uid: str
    created: int
    model: str
    chat: bool
    ends_by_itself: bool

    @property
    def finish_reason(self) -> str:
        """Why answers end."""
        return "stop" if self.ends_by_itself else "length"

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the answer in one piece."""
        found = []
        for index, (nonce, ticket) in enumerate(choices):
            text = answer_part(nonce, 0, ticket.output_tokens)
            said = {"message": {"role": "assistant", "content": text}} if self.chat else {"text": text}
            found.append({"index": index, **said, "logprobs": None, "finish_reason": self.finish_reason})
        kind = "chat.completion" if self.chat else "text_completion"
        return self._envelope(kind) | {"choices": found, "usage": usage_of(choices)}

    def part(self, index: int, text: str, *, first: bool, last: bool) -> dict[str, Any]:
        """Return a piece of one choice."""
        said: dict[str, Any] = {"text": text}
        if self.chat:
            said = {"delta": {"role": "assistant", "content": text} if first else {"content": text}}
        reason = self.finish_reason if last else None
        choice = {"index": index, **said, "logprobs": None, "finish_reason": reason}
        return self._envelope(self._kind_of_part) | {"choices": [choice]}

    def last_part(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the piece that holds the usage, behind all others."""
        return self._envelope(self._kind_of_part) | {"choices": [], "usage": usage_of(choices)}

    @property
    def _kind_of_part(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.uid, "object": kind, "created": self.created, "model": self.model}


def usage_of(choices: Sequence[Choice]) -> dict[str, int]:
    """Return how long prompts and answers are together."""
    prompt = sum(choice.ticket.prompt_tokens for choice in choices)
    answer = sum(choice.ticket.output_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def problem(status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> web.Response:
    """Return an error in OpenAI's shape."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    error = {"message": message, "type": kind, "param": None, "code": code or None}
    return web.json_response({"error": error}, status=status, headers=headers)


def _event(data: dict[str, Any]) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(data, separators=(",", ":")).encode() + b"\n\n"


async def send_stream(
    request: web.Request, reply: Reply, choices: Sequence[Choice], changed: asyncio.Event, *, usage: bool
) -> web.StreamResponse:
    """Send tokens as they come: what has come since the last look goes out in one event."""
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    answer.headers["Cache-Control"] = "no-cache"
    await answer.prepare(request)
    sent = [0] * len(choices)
    while any(tokens < choice.ticket.output_tokens for tokens, choice in zip(sent, choices, strict=True)):
        await changed.wait()
        changed.clear()
        for index, (nonce, ticket) in enumerate(choices):
            start, stop = sent[index], ticket.tokens
            if start < stop:
                sent[index] = stop
                text = answer_part(nonce, start, stop)
                part = reply.part(index, text, first=not start, last=stop == ticket.output_tokens)
                await answer.write(_event(part))
    if usage:
        await answer.write(_event(reply.last_part(choices)))
    await answer.write(b"data: [DONE]\n\n")
    await answer.write_eof()
    return answer
