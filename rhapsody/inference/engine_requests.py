"""Requests as OpenAI's clients send them, as far as the stand-in engine reads them.

What else a request holds is ignored: `temperature`, `seed`, `stop`, tools and the like change nothing.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rhapsody.errors import SpecError
from rhapsody.inference.engine_texts import EMBEDDING_SIZE, Prompt, count_tokens

COMPLETION_TOKENS = 16
"""Length of a completion where none is asked for, as with OpenAI and vLLM."""
CHAT_TOKENS = 64
"""Length of an answer in a chat where none is asked for; a model would decide itself."""

Tokens = list[Annotated[int, Field(ge=0)]]
Length = Annotated[int, Field(ge=1)] | None


class _Part(BaseModel):
    type: Literal["text"]
    text: str


class _Message(BaseModel):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _StreamOptions(BaseModel):
    include_usage: bool = False


class Request(BaseModel):
    """What all requests hold."""

    model_config = ConfigDict(hide_input_in_errors=True)

    model: str


class Generation(Request):
    """What requests for text hold."""

    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    max_tokens: Length = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class Completion(Generation):
    """A request to /v1/completions."""

    prompt: str | list[str] | Tokens | list[Tokens]


class Chat(Generation):
    """A request to /v1/chat/completions."""

    messages: Annotated[list[_Message], Field(min_length=1)]
    max_completion_tokens: Length = None

    @property
    def prompt(self) -> Prompt:
        """The texts of all messages; each role counts as a token."""
        text = "\n".join(message.text for message in self.messages)
        return Prompt(text, len(self.messages) + (count_tokens(text) if text.strip() else 0))


class Embeddings(Request):
    """A request to /v1/embeddings."""

    input: str | list[str] | Tokens | list[Tokens]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=4096)] = EMBEDDING_SIZE


AnyRequest = TypeVar("AnyRequest", bound=Request)


def parse(kind: type[AnyRequest], body: bytes) -> AnyRequest:
    """Return a request from its JSON.

    Raises:
        SpecError: It is none; the text does not repeat what was sent.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as exc:
        first = exc.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "body"
        raise SpecError(f"{where}: {first['msg']}") from exc
