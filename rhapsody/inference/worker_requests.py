"""Requests as OpenAI's clients send them, as an AI worker reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec

from rhapsody.errors import SpecError
from rhapsody.inference.worker_model import Prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

Length = Annotated[int, msgspec.Meta(ge=1)] | None
Texts = str | list[str | int | list[int]]
"""One text or several, or the numbers of tokens of one or several."""
_NOT_OFFERED = ("best_of", "echo", "logprobs", "suffix", "tools", "functions", "audio", "top_logprobs")
"""Would change the shape of the answer."""


class StreamOptions(msgspec.Struct):
    """How a stream is told."""

    include_usage: bool | None = None


class Asked(msgspec.Struct, kw_only=True):
    """What all requests hold."""

    model: str
    options: dict[str, Any] = {}
    """What is in none of the other fields; the model's business."""


class Generation(Asked, kw_only=True):
    """What requests for text hold."""

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1)] | None = None
    max_tokens: Length = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class Completion(Generation, kw_only=True):
    """A request to /v1/completions."""

    prompt: Texts

    @property
    def prompts(self) -> list[Prompt]:
        """What the model gets."""
        length = self.max_tokens or 16  # as with OpenAI, and vLLM
        return _prompts(self.prompt, "prompt", max_tokens=length, options=self.options)


class Chat(Generation, kw_only=True):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)]
    max_completion_tokens: Length = None

    @property
    def prompts(self) -> list[Prompt]:
        """What the model gets: one."""
        messages = [_message(message, f"messages.{place}") for place, message in enumerate(self.messages)]
        text = "\n".join(message["content"] for message in messages)
        length = self.max_completion_tokens or self.max_tokens
        return [Prompt(text, messages, max_tokens=length, options=self.options)]


class Embeddings(Asked, kw_only=True):
    """A request to /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Length = None

    @property
    def prompts(self) -> list[Prompt]:
        """What the model gets."""
        return _prompts(self.input, "input", max_tokens=None, options=self.options)


AnyAsked = TypeVar("AnyAsked", bound=Asked)


def parse(kind: type[AnyAsked], body: bytes) -> AnyAsked:
    """Return a request from its JSON.

    Raises:
        SpecError: It is none, or asks for what no worker offers; the text does not repeat what was sent.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
        known = {name: value for name, value in fields.items() if name in kind.__struct_fields__ and name != "options"}
        asked = msgspec.convert(known, kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:  # its text names the field, not the value
        raise SpecError(f"the request cannot be read: {exc}") from exc
    asked.options = {name: value for name, value in fields.items() if name not in known and value is not None}
    for name in _NOT_OFFERED:
        if asked.options.get(name):
            raise SpecError(f"{name}: an AI worker does not offer this; leave it out, or ask a vLLM service")
    return asked


def _prompts(given: Texts, where: str, *, max_tokens: int | None, options: Mapping[str, Any]) -> list[Prompt]:
    if isinstance(given, str):
        return [Prompt(given, max_tokens=max_tokens, options=options)]
    kinds = {type(each) for each in given}
    if len(kinds) != 1 or [] in given:
        raise SpecError(f"{where}: must be a text, some texts, or numbers of tokens; not empty, and not of both kinds")
    if kinds == {int}:
        return [Prompt(token_ids=_numbers(given, where), max_tokens=max_tokens, options=options)]
    return [
        Prompt(each, max_tokens=max_tokens, options=options)
        if isinstance(each, str)
        else Prompt(token_ids=_numbers(each, where), max_tokens=max_tokens, options=options)
        for each in given
    ]


def _numbers(given: Any, where: str) -> list[int]:  # noqa: ANN401 - told apart by the caller
    if any(number < 0 for number in given):
        raise SpecError(f"{where}: numbers of tokens are 0 or more")
    return list(given)


def _message(message: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a message with its text in one piece."""
    if not isinstance(message.get("role"), str):
        raise SpecError(f"{where}.role: must be a text")
    content = message.get("content") or ""
    if isinstance(content, list):
        content = "".join(_text_of(part, where) for part in content)
    if not isinstance(content, str):
        raise SpecError(f"{where}.content: must be a text, or parts of type text")
    return {**message, "content": content}


def _text_of(part: Any, where: str) -> str:  # noqa: ANN401 - whatever was sent
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise SpecError(f"{where}.content: an AI worker reads parts of type text only")
    return text
