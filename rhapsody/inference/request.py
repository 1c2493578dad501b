"""A request to a model, and the answer to it."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import msgspec

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPLETIONS, CHAT, EMBEDDINGS = "/v1/completions", "/v1/chat/completions", "/v1/embeddings"
BYTES_PER_TOKEN = 4
"""Rule of thumb for English; the ledger needs sizes to compare, not exact counts."""
EXPECTED_TOKENS_OUT = 256
"""Assumed of requests that set no limit."""
MOST_TOKENS_OUT = 1_000_000
"""Believed of a limit; servers refuse what is more than they can."""


class Request(NamedTuple):
    """What is asked, in the JSON of OpenAI's API, which goes to the server as it is.

    Attributes:
        path: Of the API: `/v1/completions` and so on.
        model: As the server calls it; the same as in the body.
        body: JSON.
        uid: Tells it from all others.
        tokens_in: Estimate.
        tokens_out: The most that it may get, or an estimate.
        wants_stream: Whether the body says `"stream": true`.
        within_s: Seconds from the call until it fails; None: no limit.
    """

    path: str
    model: str
    body: bytes
    uid: str
    tokens_in: int = 0
    tokens_out: int = 0
    wants_stream: bool = False
    within_s: float | None = None

    @classmethod
    def make(cls, path: str, fields: Mapping[str, Any], *, within_s: float | None = None) -> Self:
        """Make one from the fields of its JSON.

        Raises:
            SpecError: A field is missing or of a wrong type.
        """
        return cls.parse(path, msgspec.json.encode(fields), within_s=within_s)

    @classmethod
    def parse(cls, path: str, body: bytes, *, within_s: float | None = None) -> Self:
        """Make one from its JSON.

        Raises:
            SpecError: It is no JSON, or a field is missing or of a wrong type.
        """
        try:
            fields = _DECODER.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise SpecError(f"the body of a request to {path} cannot be read: {exc}") from exc
        tokens_out = 0
        if path != EMBEDDINGS:
            limit = fields.max_completion_tokens or fields.max_tokens or EXPECTED_TOKENS_OUT
            tokens_out = min(max(limit * (fields.n or 1), 0), MOST_TOKENS_OUT)
        tokens_in = len(body) // BYTES_PER_TOKEN + 1
        return cls(path, fields.model, body, uuid.uuid4().hex, tokens_in, tokens_out, fields.stream or False, within_s)


class Journey(NamedTuple):
    """How an answer came.

    Attributes:
        request: The uid of what was asked.
        replica: The uid of who answered.
        attempts: How many replicas were asked, the last one included.
        queued_s: Waited for a replica with room.
        first_byte_s: From the call to the first byte of the answer, or to its end where it is not streamed.
        router_s: Spent by the router itself: all that is neither waiting for room nor for a server.
    """

    request: str
    replica: str
    attempts: int
    queued_s: float
    first_byte_s: float
    router_s: float


class Answer(NamedTuple):
    """What a server said.

    Attributes:
        body: As it came.
        content_type: What the server calls it.
        journey: How it came.
    """

    body: bytes
    content_type: str
    journey: Journey

    def json(self) -> Any:  # noqa: ANN401 - whatever the server sent
        """Return the body as Python values."""
        return msgspec.json.decode(self.body)


class _Fields(msgspec.Struct):
    """What the router reads of a body; all else is the server's business."""

    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None


_DECODER = msgspec.json.Decoder(_Fields)
