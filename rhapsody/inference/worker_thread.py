"""A model in a thread of its own, as the event loop sees it; the loop never waits for the model's code."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rhapsody.errors import BackendError, InferenceError, SpecError
from rhapsody.inference.worker_batches import Batches, say_trouble
from rhapsody.inference.worker_model import Generated, Loaded, Prompt
from rhapsody.inference.worker_queue import Job, Kind, Queue, Streaming

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

_LOOKS = 10
"""A hang is noticed within a tenth of the time that it may take."""


class ModelThread:
    """Loads a model, and answers prompts with it.

    Args:
        load: Returns the model; called in the thread.
        max_batch: Most prompts that the model gets at a time.
        max_wait_s: How long a batch that is not full waits for more.

    Attributes:
        queue: What waits.
        broken: Set once the model cannot go on.
        reason: Why; empty while it can.
        loaded: What the model offers, once it is loaded; `BackendError` where the loader failed, `SpecError` where it
            says so or returned no model.
    """

    def __init__(self, load: Callable[[], object], max_batch: int, max_wait_s: float) -> None:
        self.queue = Queue(max_batch, max_wait_s)
        self.broken = asyncio.Event()
        self.reason = ""
        self._load = load
        self._batches: Batches | None = None
        self._open: set[Job] = set()
        self._loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[Loaded] = self._loop.create_future()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)

    def start(self) -> None:
        """Begin to load the model."""
        self._thread.start()

    @property
    def batches(self) -> Batches:
        """What the thread does; there only once the model is loaded."""
        if self._batches is None:
            raise InferenceError("the model is not loaded yet", 503)
        return self._batches

    @property
    def running(self) -> int:
        """Jobs that the model has in hand."""
        return max(0, len(self._open) - len(self.queue))

    @property
    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    async def answers(self, kind: Kind, prompts: Sequence[Prompt]) -> list[Any]:
        """Return what the model says to each prompt. Cancelling drops those that it has not begun.

        Raises:
            RequestRefusedError: One was refused.
            InferenceError: The model failed at one.
        """
        jobs = [self._job(kind, prompt) for prompt in prompts]
        self._enqueue(jobs)
        try:
            return [await job.answer for job in jobs]
        finally:
            self._forget(jobs)

    async def parts(self, prompt: Prompt) -> AsyncGenerator[Generated, None]:
        """Yield an answer part by part; the model makes each when the one before it was taken.

        Raises:
            RequestRefusedError: The prompt was refused.
            InferenceError: The model failed; what came before is not the whole answer.
        """
        streaming = Streaming(prompt)
        try:
            while (part := await self._step(streaming)) is not None:
                yield part
        finally:
            if not self.reason:
                self.queue.put([self._job(Kind.CLOSE, prompt, streaming)])

    async def watch(self, hang_s: float) -> None:
        """Notice when the model does not return from a call; runs until it is cancelled."""
        while True:
            await asyncio.sleep(hang_s / _LOOKS)
            since = self.batches.calling_since
            if since is not None and time.monotonic() - since > hang_s:
                self._break(f"the model has not returned from a call for {hang_s:g} s")

    async def close(self, limit_s: float) -> None:
        """Let the model end what waits and close itself, but do not wait for longer than the limit."""
        self.queue.close()
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join, limit_s)

    async def _step(self, streaming: Streaming) -> Generated | None:
        job = self._job(Kind.STEP, streaming.prompt, streaming)
        self._enqueue([job])
        try:
            part: Generated | None = await job.answer
        finally:
            self._forget([job])
        return part

    def _job(self, kind: Kind, prompt: Prompt, streaming: Streaming | None = None) -> Job:
        return Job(kind, prompt, self._loop.create_future(), streaming)

    def _enqueue(self, jobs: Sequence[Job]) -> None:
        if self.reason:
            raise InferenceError(self.reason, 503)
        self._open.update(jobs)
        self.queue.put(jobs)

    def _forget(self, jobs: Sequence[Job]) -> None:
        left = [job for job in jobs if job in self._open]
        self._open.difference_update(left)
        self.queue.drop(left)
        for job in jobs:
            job.answer.cancel()
            if not job.answer.cancelled():
                job.answer.exception()  # seen, also where another one of the request was raised first

    def _settle(self, outcomes: list[tuple[Job, Any]]) -> None:
        for job, outcome in outcomes:
            self._open.discard(job)
            if job.answer.done():
                continue
            if isinstance(outcome, Exception):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)

    def _break(self, reason: str) -> None:
        """Fail all there is: nothing more will come."""
        if self.reason:
            return
        self.reason = reason
        self.broken.set()
        self._settle([(job, InferenceError(reason, 503)) for job in list(self._open)])

    # In the thread

    def _work(self) -> None:
        try:
            model = Loaded(self._load())
        except SpecError as exc:
            self._tell(self._not_loaded, exc)
            return
        except BaseException as exc:  # noqa: BLE001 - the loader is the user's own, and may even want to exit
            say_trouble("the loader failed", exc)
            self._tell(self._not_loaded, BackendError(f"the loader failed: {type(exc).__name__}: {exc}"))
            return
        batches = Batches(model, lambda outcomes: self._tell(self._settle, outcomes))
        self._tell(self._is_loaded, model, batches)
        try:
            while jobs := self.queue.take():
                batches.run(jobs)
            batches.close()
        except BaseException as exc:  # noqa: BLE001 - the model is the user's own; the loop ends the worker
            say_trouble("the model has ended", exc)
            self._tell(self._break, f"the model has ended: {type(exc).__name__}: {exc}")

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(function, *args)

    def _is_loaded(self, model: Loaded, batches: Batches) -> None:
        self._batches = batches
        if not self.loaded.done():
            self.loaded.set_result(model)

    def _not_loaded(self, exc: Exception) -> None:
        if not self.loaded.done():
            self.loaded.set_exception(exc)
