"""vLLM as the model of an AI worker, in the worker's own process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rhapsody.errors import InferenceError, SpecError
from rhapsody.inference.worker_model import Generated, Prompt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


def vllm_in_process(model: str, **options: Any) -> object:  # noqa: ANN401 - vLLM's own
    """Load a model with vLLM; a loader for `rhapsody.inference.worker`.

    Each batch is one call of vLLM, which schedules the prompts in it by itself. A prompt that comes later waits for the
    call to end, so give the worker a large `--max-batch`; where prompts come one by one, vLLM's own server
    (`ServiceTask.vllm`) is the better choice.

    Args:
        model: As vLLM takes it: a name or a folder.
        options: Of `vllm.LLM`. With `runner="pooling"` it embeds, else it generates.

    Raises:
        SpecError: This interpreter has no vLLM.
    """
    # One process: whatever ends the worker ends the engine. Source: vLLM's docs, `envs.py`.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        import vllm.exceptions  # noqa: PLC0415 - only here: it takes seconds, and few interpreters have it
    except ImportError as exc:
        raise SpecError(f"{exc}; start the worker with the interpreter that has vLLM (python=…)") from exc
    engine = vllm.LLM(model=model, **options)
    # What a request is at fault for; a ValueError in versions before there was such a class.
    refusal = getattr(vllm.exceptions, "VLLMClientError", ValueError)
    if options.get("runner") == "pooling":
        return Embeds(engine, refusal)
    return Generates(engine, refusal, vllm.SamplingParams)


class _Counts:
    """What both kinds of models share.

    Args:
        engine: A `vllm.LLM`.
        refusal: What it raises where the request is at fault.
    """

    reads_token_ids = True

    def __init__(self, engine: Any, refusal: type[Exception]) -> None:  # noqa: ANN401 - vLLM may not be there
        self._engine = engine
        self._refusal = refusal
        self._tokenizer = engine.get_tokenizer()
        self.max_model_len = int(engine.model_config.max_model_len)

    def count(self, prompt: Prompt) -> int:
        """Return how many tokens a prompt has."""
        return len(prompt.token_ids or self._tokenizer.encode(prompt.text))

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except self._refusal as exc:
            raise SpecError(str(exc)) from exc

    def _given(self, prompt: Prompt) -> dict[str, object]:
        return {"prompt_token_ids": list(prompt.token_ids)} if prompt.token_ids else {"prompt": prompt.text}


class Generates(_Counts):
    """A model that generates.

    Args:
        engine: A `vllm.LLM`.
        refusal: What it raises where the request is at fault.
        parameters: The class `vllm.SamplingParams`.
    """

    def __init__(self, engine: Any, refusal: type[Exception], parameters: Any) -> None:  # noqa: ANN401
        super().__init__(engine, refusal)
        self._parameters = parameters
        self._known = frozenset(parameters.__struct_fields__)

    def template(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Return the text of a chat, by the template of the tokenizer."""
        text: str = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return text

    def generate(self, batch: Sequence[Prompt]) -> list[Generated]:
        """Answer a batch, each prompt with its own sampling parameters."""
        with self._refusing():
            outputs = self._engine.generate(
                [self._given(prompt) for prompt in batch], [self._sampling(prompt) for prompt in batch], use_tqdm=False
            )
        return [_generated(output) for output in outputs]

    def _sampling(self, prompt: Prompt) -> object:
        options = {name: value for name, value in prompt.options.items() if name in self._known}
        try:
            return self._parameters(**options, max_tokens=prompt.max_tokens)
        except TypeError as exc:  # such as a temperature that is a text
            raise SpecError(f"sampling parameters: {exc}") from exc


class Embeds(_Counts):
    """A model that embeds."""

    def embed(self, batch: Sequence[Prompt]) -> list[list[float]]:
        """Return a vector for each prompt."""
        with self._refusing():
            outputs = self._engine.embed([self._given(prompt) for prompt in batch], use_tqdm=False)
        return [output.outputs.embedding for output in outputs]


def _generated(output: Any) -> Generated:  # noqa: ANN401 - vLLM's `RequestOutput`
    [said] = output.outputs
    if said.finish_reason not in ("stop", "length"):
        raise InferenceError(f"vLLM ended an answer with {said.finish_reason!r}", 500)
    return Generated(said.text, len(said.token_ids), len(output.prompt_token_ids), said.finish_reason)
