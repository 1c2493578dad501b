"""What waits for a model: put in by the event loop, taken out in batches by the model's thread."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable, Iterator

    from rhapsody.inference.worker_model import Generated, Prompt


class Kind(Enum):
    """What a model is to do; a batch is of one kind."""

    GENERATE = "generate"
    EMBED = "embed"
    STEP = "step"
    """Say the next part of a stream."""
    CLOSE = "close"
    """End a stream that nobody reads any more."""


class Streaming:
    """A stream on its way.

    Attributes:
        prompt: What was asked.
        parts: The model's own iterator; only the model's thread touches it.
        prompt_tokens: Length of the prompt, as far as the model counts.
    """

    __slots__ = ("parts", "prompt", "prompt_tokens")

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.parts: Iterator[Generated] | None = None
        self.prompt_tokens = 0


class Job:
    """Something that a model is to do.

    Attributes:
        kind: What.
        prompt: On what.
        streaming: The stream, where it is about one.
        answer: Gets the outcome, on the event loop.
    """

    __slots__ = ("answer", "kind", "prompt", "streaming")

    def __init__(
        self, kind: Kind, prompt: Prompt, answer: asyncio.Future[Any], streaming: Streaming | None = None
    ) -> None:
        self.kind = kind
        self.prompt = prompt
        self.answer = answer
        self.streaming = streaming


class Queue:
    """Jobs in the order in which they came.

    Args:
        max_batch: Most jobs in a batch.
        max_wait_s: How long a batch that is not full waits for more.
    """

    def __init__(self, max_batch: int, max_wait_s: float) -> None:
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._jobs: OrderedDict[Job, None] = OrderedDict()
        self._changed = threading.Condition()
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, jobs: Iterable[Job]) -> None:
        """Let jobs wait."""
        with self._changed:
            self._jobs.update((job, None) for job in jobs)
            self._changed.notify()

    def drop(self, jobs: Iterable[Job]) -> None:
        """Forget those that still wait; the model never sees them."""
        with self._changed:
            for job in jobs:
                self._jobs.pop(job, None)

    def close(self) -> None:
        """Let no batch begin after what waits now."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def take(self) -> list[Job]:
        """Wait for a batch and take it; empty once the queue is closed and nothing waits."""
        with self._changed:
            while True:
                while not self._jobs and not self._is_closed:
                    self._changed.wait()
                self._wait_for_more()
                if self._jobs or self._is_closed:
                    return self._taken()

    def _wait_for_more(self) -> None:
        """Wait, unless a part of a stream is due: streams come back by themselves."""
        until = time.monotonic() + self._max_wait_s
        while self._jobs and len(self._jobs) < self._max_batch and not self._is_closed:
            left_s = until - time.monotonic()
            if left_s <= 0 or next(iter(self._jobs)).kind in (Kind.STEP, Kind.CLOSE):
                return
            self._changed.wait(left_s)

    def _taken(self) -> list[Job]:
        batch: list[Job] = []
        for job in self._jobs:
            if len(batch) == self._max_batch:
                break
            if not batch or job.kind is batch[0].kind:
                batch.append(job)
        for job in batch:
            del self._jobs[job]
        return batch
