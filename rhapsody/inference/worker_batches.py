"""What the model's thread does: batch after batch, and when one raises, its halves."""

from __future__ import annotations

import sys
import time
import traceback
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from rhapsody.errors import InferenceError, RequestRefusedError, SpecError
from rhapsody.inference.worker_model import Generated, Loaded, ModelBrokenError, Prompt
from rhapsody.inference.worker_queue import Job, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.inference.worker_queue import Streaming

P = ParamSpec("P")
T = TypeVar("T")
SMALLEST = Prompt("1", max_tokens=1)
"""What a router's probe asks, too."""


@dataclass(slots=True)
class Counts:
    """What a model has done so far; written by its thread only.

    Attributes:
        batches: Calls of `generate` and `embed`.
        prompts: Prompts in them, and streams that have begun.
        parts: Parts of streams.
        refused: Prompts that were refused, by the model or as too long for it.
        failed: Prompts that the model failed at.
        prompt_tokens: Of prompts that were answered, as far as the model says.
        generated_tokens: Of answers, likewise.
        busy_s: Time in the model's code.
    """

    batches: int = 0
    prompts: int = 0
    parts: int = 0
    refused: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    busy_s: float = 0.0


class Batches:
    """Runs jobs on a model, and hands out what comes of each.

    Args:
        model: That was loaded in this thread.
        deliver: Takes jobs with their outcomes, exceptions among them.

    Attributes:
        counts: What was done.
        calling_since: When the call of the model's code began that goes on now, on the monotonic clock.
    """

    def __init__(self, model: Loaded, deliver: Callable[[list[tuple[Job, Any]]], None]) -> None:
        self.counts = Counts()
        self.calling_since: float | None = None
        self._model = model
        self._deliver = deliver

    def run(self, jobs: list[Job]) -> None:
        """Run jobs of one kind.

        Raises:
            ModelBrokenError: The model cannot go on. Jobs may have got no outcome.
        """
        kind = jobs[0].kind
        if kind is Kind.CLOSE:
            self._end_streams(jobs)
        elif kind is Kind.STEP:
            self._step(jobs)
        elif fitting := self._fitting(jobs):
            self._halve(kind, fitting)

    def close(self) -> None:
        """Let the model close what it holds."""
        if self._model.close is not None:
            self._call(self._model.close)

    # Batches

    def _fitting(self, jobs: list[Job]) -> list[tuple[Job, Prompt, int]]:
        """Return jobs with what the model gets, and its tokens as far as they can be counted."""
        found = []
        for job in jobs:
            try:
                found.append((job, *self._prepared(job.kind, job.prompt)))
            except Exception as exc:  # noqa: BLE001 - templates and counters are the model's own
                self._failed(job, exc)
        return found

    def _prepared(self, kind: Kind, prompt: Prompt) -> tuple[Prompt, int]:
        model = self._model
        if prompt.messages and model.template is not None:
            prompt = prompt._replace(text=self._call(model.template, prompt.messages))
        tokens = 0 if model.count is None else self._call(model.count, prompt)
        answer = 0 if kind is Kind.EMBED else prompt.max_tokens or 1
        if model.count is not None and model.max_model_len is not None and tokens + answer > model.max_model_len:
            raise RequestRefusedError(
                f"the prompt has {tokens} tokens and the answer may have {answer}; together the model has room for "
                f"{model.max_model_len}; shorten the prompt, or ask for less (max_tokens)"
            )
        return prompt, tokens

    def _halve(self, kind: Kind, batch: list[tuple[Job, Prompt, int]]) -> None:
        """Have a batch answered; when the model raises, have its halves answered, down to the prompt that it fails at.

        So one prompt fails alone, a batch that needs too much memory runs in parts, and the others stay batches.
        """
        try:
            found = self._answers(kind, [prompt for _, prompt, _ in batch])
        except ModelBrokenError:
            raise
        except Exception as exc:  # noqa: BLE001 - the model is the user's own
            if len(batch) == 1:
                self._failed(batch[0][0], exc)
                return
            half = len(batch) // 2
            self._halve(kind, batch[:half])
            self._halve(kind, batch[half:])
            return
        if kind is Kind.GENERATE:
            found = [_with_tokens(answer, tokens) for answer, (_, _, tokens) in zip(found, batch, strict=True)]
            self._count(found)
        else:
            found = [(vector, tokens) for vector, (_, _, tokens) in zip(found, batch, strict=True)]
            self.counts.prompt_tokens += sum(tokens for _, tokens in found)
        self.counts.prompts += len(batch)
        self._deliver([(job, answer) for (job, _, _), answer in zip(batch, found, strict=True)])

    def _answers(self, kind: Kind, prompts: list[Prompt]) -> list[Any]:
        """Return what the model gives to a batch, once it is seen to be one answer for each prompt."""
        self.counts.batches += 1
        method: Callable[[Sequence[Prompt]], Sequence[Any]] | None
        checked: Callable[[Any], Any]
        if kind is Kind.GENERATE:
            method, checked = self._model.generate, _checked_text
        else:
            method, checked = self._model.embed, _checked_vector
        if method is None:
            raise RequestRefusedError(f"this model does not {kind.value}", 404)
        answers = self._call(method, prompts)
        if len(answers) != len(prompts):
            raise InferenceError(f"the model gave {len(answers)} answers to {len(prompts)} prompts", 500)
        return [checked(answer) for answer in answers]

    # Streams

    def _step(self, jobs: list[Job]) -> None:
        found: list[tuple[Job, Any]] = []
        for job in jobs:
            streaming = job.streaming
            if streaming is None:
                continue
            try:
                found.append((job, self._next_part(streaming)))
            except Exception as exc:  # noqa: BLE001 - the model is the user's own
                self._failed(job, exc)
        self._deliver(found)

    def _next_part(self, streaming: Streaming) -> Generated | None:
        """Return the next part of a stream; None at its end."""
        if streaming.parts is None:
            if self._model.stream is None:
                raise InferenceError("this model has no streams", 500)
            prompt, streaming.prompt_tokens = self._prepared(Kind.GENERATE, streaming.prompt)
            streaming.parts = iter(self._call(self._model.stream, prompt))
            self.counts.prompts += 1
            self.counts.prompt_tokens += streaming.prompt_tokens
        part = self._call(next, streaming.parts, None)
        if part is None:
            return None
        self.counts.parts += 1
        self.counts.generated_tokens += _checked_text(part).tokens
        return _with_tokens(part, streaming.prompt_tokens)

    def _end_streams(self, jobs: list[Job]) -> None:
        for job in jobs:
            parts = job.streaming and job.streaming.parts
            close = getattr(parts, "close", None)  # generators have one
            if close is None:
                continue
            try:
                self._call(close)
            except ModelBrokenError:
                raise
            except Exception as exc:  # noqa: BLE001 - the model is the user's own, and nobody waits for this
                say_trouble("the model failed as a stream was ended", exc)

    # What goes wrong

    def _failed(self, job: Job, exc: Exception) -> None:
        """Fail a job with the model's words. Where the fault is not the prompt's, see whether the model still works."""
        if isinstance(exc, ModelBrokenError):
            raise exc
        if isinstance(exc, SpecError | ValueError):
            self.counts.refused += 1
            refused = exc if isinstance(exc, RequestRefusedError) else RequestRefusedError(str(exc) or repr(exc))
            self._deliver([(job, refused)])
            return
        self.counts.failed += 1
        say_trouble("the model failed at a prompt", exc)
        words = exc if isinstance(exc, InferenceError) else InferenceError(f"the model failed: {_words(exc)}", 500)
        self._deliver([(job, words)])
        self._require_whole(Kind.EMBED if self._model.generate is None else Kind.GENERATE)

    def _require_whole(self, kind: Kind) -> None:
        try:
            self._answers(kind, [SMALLEST])
        except (SpecError, ValueError):
            return
        except ModelBrokenError:
            raise
        except Exception as exc:  # the model is the user's, and may raise anything
            raise ModelBrokenError(f"the model fails at the smallest prompt, too: {_words(exc)}") from exc

    def _count(self, answers: list[Generated]) -> None:
        self.counts.prompt_tokens += sum(each.prompt_tokens for each in answers)
        self.counts.generated_tokens += sum(each.tokens for each in answers)

    def _call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the model's code, with the time taken."""
        began = self.calling_since = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            self.calling_since = None
            self.counts.busy_s += time.monotonic() - began


def _with_tokens(answer: Generated, prompt_tokens: int) -> Generated:
    return answer if answer.prompt_tokens else answer._replace(prompt_tokens=prompt_tokens)


def _checked_text(answer: object) -> Generated:
    if not isinstance(answer, Generated) or not isinstance(answer.text, str):
        raise InferenceError(f"the model gave {type(answer).__name__} as an answer; it must be a Generated text", 500)
    try:
        answer.text.encode()
    except UnicodeEncodeError as exc:
        raise InferenceError(f"the model's text cannot be sent: {exc}", 500) from exc
    return answer


def _checked_vector(answer: Any) -> list[float]:  # noqa: ANN401 - lists, arrays, tensors
    vector = [float(number) for number in answer]
    if not vector or not all(map(isfinite, vector)):
        raise InferenceError("the model gave a vector that is empty, or holds what is no finite number", 500)
    return vector


def _words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {exc}"


def say_trouble(what: str, exc: BaseException) -> None:
    """Leave the traceback in the worker's log."""
    sys.stderr.write(f"worker: {what}:\n{''.join(traceback.format_exception(exc))}")
