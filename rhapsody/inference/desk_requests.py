"""What AI tasks ask, in the words of OpenAI's API, and what is read from the answers."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from rhapsody.errors import InferenceError, SpecError
from rhapsody.inference.request import CHAT, COMPLETIONS, EMBEDDINGS, Request
from rhapsody.model.ai import Usage, prompts_of, require_askable
from rhapsody.model.arguments import replace_tasks
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure

if TYPE_CHECKING:
    from rhapsody.inference.request import Answer
    from rhapsody.model.ai import AITask, Prompt
    from rhapsody.model.task import Task

_SHOWN = 300


class Prompts(NamedTuple):
    """What one task asks.

    Attributes:
        prompts: One request each.
        is_batch: Whether the response is a list, even of one.
    """

    prompts: list[Prompt]
    is_batch: bool


def prompts_given(task: AITask) -> Prompts | Failure:
    """Return the prompts of a task that no function makes, or why there are none."""
    return _prompts_in(task, replace_tasks(task.prompt, _value_of))


def prompts_made(task: AITask) -> Prompts | Failure:
    """Return what a task's function makes of its arguments, or why it makes nothing; called in a thread."""
    function = task.function
    try:
        made = None if function is None else function(*(replace_tasks(value, _value_of) for value in task.args))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - the user's function
        said = f"the function of its prompt raised {type(exc).__name__}: {exc}"
        return Failure(Cause.EXCEPTION, said, exc, traceback.format_exc())
    return _prompts_in(task, made)


def _prompts_in(task: AITask, value: object) -> Prompts | Failure:
    try:
        prompts, is_batch = prompts_of(value)
        require_askable(task, prompts)
    except SpecError as exc:
        return Failure(Cause.ARGUMENTS, f"it cannot be asked: {exc}", exc)
    return Prompts(prompts, is_batch)


def _value_of(task: Task) -> Any:  # noqa: ANN401 - whatever flows
    """Return a task's value, or its error where one that depends on it wanted to run all the same."""
    return task.value if task.state is State.DONE else task.exception


def request_of(task: AITask, prompt: Prompt) -> Request:
    """Return one request of a task whose model is known.

    Raises:
        SpecError: What is asked cannot be said in JSON.
    """
    fields: dict[str, Any] = {"model": task.model, **task.fields}
    if task.embed:
        path, fields["input"] = EMBEDDINGS, prompt
    elif isinstance(prompt, str) and task.system is None:
        path, fields["prompt"] = COMPLETIONS, prompt
    else:
        path, fields["messages"] = CHAT, _messages(task.system, prompt)
    try:
        return Request.make(path, fields)
    except (TypeError, ValueError, msgspec.MsgspecError) as exc:
        raise SpecError(f"it cannot be asked: its prompt cannot be sent as JSON: {exc}") from exc


def _messages(system: str | None, prompt: Prompt) -> list[Any]:
    if not isinstance(prompt, str):
        return list(prompt)
    head = [{"role": "system", "content": system}] if system is not None else []
    return [*head, {"role": "user", "content": prompt}]


def response_in(answer: Answer, path: str) -> tuple[Any, Usage | None]:
    """Return what an answer says, and what it has cost.

    Args:
        answer: Of the server.
        path: That was asked.

    Raises:
        InferenceError: It is no answer to that.
    """
    try:
        found = answer.json()
        return _said(found, path), _usage(found.get("usage"))
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError, TypeError, AttributeError) as exc:
        shown = answer.body[:_SHOWN].decode(errors="replace")
        raise InferenceError(f"{answer.journey.replica} answered what OpenAI's API does not know: {shown}") from exc


def _said(found: Any, path: str) -> Any:  # noqa: ANN401 - JSON of a server
    if path == EMBEDDINGS:
        return found["data"][0]["embedding"]
    choice = found["choices"][0]
    if path == COMPLETIONS:
        return _text(choice["text"])
    message = choice["message"]
    return message if message.get("tool_calls") else _text(message["content"])


def _text(said: object) -> str:
    """Return a text; nothing was said where a model came to its limit while it was still thinking."""
    if said is not None and not isinstance(said, str):
        raise TypeError(said)
    return said or ""


def _usage(found: Any) -> Usage | None:  # noqa: ANN401 - JSON of a server
    if not isinstance(found, dict) or not isinstance(found.get("prompt_tokens"), int):
        return None
    out = found.get("completion_tokens")
    return Usage(found["prompt_tokens"], out if isinstance(out, int) else 0)
