"""A small PyTorch model for the tests of AI workers: it is trained on nothing, and says what it reads, byte by byte.

Each byte of an answer comes from a forward pass over the whole batch, padded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rhapsody.inference.worker_model import Generated, Prompt
from tests.unit.inference.worker_models import CONTEXT, wait_where_told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BYTES = 256


class Copier(torch.nn.Module):  # type: ignore[misc]  # torch is not there where types are checked
    """Gives each byte the highest score after itself: the head is the transposed, orthogonal embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(BYTES, BYTES)
        torch.nn.init.orthogonal_(self.embedding.weight)
        self.head = torch.nn.Linear(BYTES, BYTES, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Any) -> Any:  # noqa: ANN401 - tensors
        return self.head(self.embedding(ids))


class TorchModel:
    """The model as a worker wants it."""

    max_model_len = CONTEXT

    def __init__(self) -> None:
        self.module = Copier().eval()

    def count(self, prompt: Prompt) -> int:
        return len(prompt.text.encode())

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        wait_where_told(batch)
        texts = [prompt.text.encode() for prompt in batch]
        sizes = [_size(prompt) for prompt in batch]
        said: list[list[int]] = [[] for _ in batch]
        for position in range(max(sizes)):
            ids = torch.tensor([text[position % len(text)] for text in texts])
            for answer, size, token in zip(said, sizes, self._next(ids), strict=True):
                if position < size:
                    answer.append(token)
        return [
            Generated(bytes(answer).decode(errors="replace"), size, finish_reason=_reason(prompt))
            for answer, size, prompt in zip(said, sizes, batch, strict=True)
        ]

    def stream(self, prompt: Prompt) -> Iterator[Generated]:
        wait_where_told([prompt])
        text = prompt.text.encode()
        for position in range(_size(prompt)):
            [token] = self._next(torch.tensor([text[position % len(text)]]))
            yield Generated(chr(token), 1, finish_reason=_reason(prompt))

    def embed(self, batch: Sequence[Prompt]) -> list[Any]:
        with torch.inference_mode():
            return [self.module.embedding(torch.tensor(list(each.text.encode()))).mean(0)[:16] for each in batch]

    def _next(self, ids: Any) -> list[int]:  # noqa: ANN401 - a tensor
        with torch.inference_mode():
            found: list[int] = self.module(ids).argmax(-1).tolist()
        return found


class TellsThreads:
    """Says how many threads torch uses."""

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        return [Generated(str(torch.get_num_threads()))] * len(batch)


def _size(prompt: Prompt) -> int:
    own = len(prompt.text.encode())
    if prompt.max_tokens is None:
        return own
    return prompt.max_tokens if prompt.options.get("ignore_eos") else min(own, prompt.max_tokens)


def _reason(prompt: Prompt) -> str:
    return "stop" if prompt.max_tokens is None or len(prompt.text.encode()) <= prompt.max_tokens else "length"
