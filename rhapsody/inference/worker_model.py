"""What an AI worker asks of a model, and what it gets from it.

This module needs the standard library only: files that hold models import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rhapsody.errors import RhapsodyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence


class ModelBrokenError(RhapsodyError):
    """A model cannot go on, whatever it is asked; the worker ends, so that its service starts another."""


class Prompt(NamedTuple):
    """What a model is asked.

    Attributes:
        text: To be continued, or embedded. Of a chat, what the model's `template` makes of the messages; a model
            without one gets their texts, joined by line ends.
        messages: Of a chat, as they were sent, with texts only; else empty.
        token_ids: Of a prompt that was sent as numbers, which has no text; else empty.
        max_tokens: The most that the answer may have; None: as the model likes.
        options: What else the request says: `temperature`, `stop`, `seed` and so on.
    """

    text: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    token_ids: Sequence[int] = ()
    max_tokens: int | None = None
    options: Mapping[str, Any] = {}


class Generated(NamedTuple):
    """What a model says, or a part of it.

    Attributes:
        text: Its words.
        tokens: How many tokens they are.
        prompt_tokens: How many the prompt was; 0 where the model does not say.
        finish_reason: Why it ended: "stop", or "length" when it may say no more. Of parts, the last one's counts.
    """

    text: str
    tokens: int = 0
    prompt_tokens: int = 0
    finish_reason: str = "stop"


class Model(Protocol):
    """What a loader returns. All calls come from one thread, the one that called the loader; it must return from each.

    What a method raises fails the requests that cause it, with its words: `SpecError` and `ValueError` refuse them
    (status 400; they are not tried again), others fail them (status 500; another replica may be tried). When a batch
    raises, its halves are tried, down to single prompts. `ModelBrokenError`, and what is no `Exception`, end the
    worker; so does a model that fails at a prompt and then also at the smallest there is, the text "1", one token.

    It may have more than `generate`, all of it looked up once:

    - `embed(batch: Sequence[Prompt]) -> Sequence[Sequence[float]]`: a vector for each. A model may have this alone.
    - `stream(prompt: Prompt) -> Iterator[Generated]`: the answer in parts. Without it, the whole is the only part.
      Several run in turn, a part of each, and a client that goes away ends its own.
    - `template(messages: Sequence[Mapping[str, Any]]) -> str`: the text of a chat.
    - `count(prompt: Prompt) -> int` and `max_model_len: int`: a prompt that leaves no room for its answer is refused
      before the model sees it.
    - `reads_token_ids: bool`: it takes prompts that were sent as numbers of tokens; without it they are refused.
    - `close() -> None`: called once when the worker has drained.
    """

    def generate(self, batch: Sequence[Prompt]) -> Sequence[Generated]:
        """Answer each prompt of a batch, in their order; there are never more than `--max-batch`."""


class Loaded:
    """A model, with what it offers looked up.

    Args:
        model: What the loader returned.

    Raises:
        SpecError: It can neither generate nor embed.
    """

    def __init__(self, model: object) -> None:
        self.generate: Callable[[Sequence[Prompt]], Sequence[Generated]] | None = _method(model, "generate")
        self.embed: Callable[[Sequence[Prompt]], Sequence[Sequence[float]]] | None = _method(model, "embed")
        self.stream: Callable[[Prompt], Iterator[Generated]] | None = _method(model, "stream")
        self.template: Callable[[Sequence[Mapping[str, Any]]], str] | None = _method(model, "template")
        self.count: Callable[[Prompt], int] | None = _method(model, "count")
        self.close: Callable[[], None] | None = _method(model, "close")
        self.max_model_len: int | None = getattr(model, "max_model_len", None)
        self.reads_token_ids = bool(getattr(model, "reads_token_ids", False))
        if self.generate is None and self.embed is None:
            raise SpecError(
                f"the loader returned {type(model).__name__}, which has neither `generate` nor `embed`; "
                "return an object such as rhapsody.inference.worker_model.Model describes"
            )


def _method(model: object, name: str) -> Any:  # noqa: ANN401 - its type is said where it is kept
    found = getattr(model, name, None)
    if found is None or callable(found):
        return found
    raise SpecError(f"{name!r} of the model {type(model).__name__} is {type(found).__name__}; it must be a method")
