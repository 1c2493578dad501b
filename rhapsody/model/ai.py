"""Requests to models, as tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec

from rhapsody.errors import SpecError
from rhapsody.model.arguments import find_tasks
from rhapsody.model.resources import SERIAL
from rhapsody.model.service import Gate
from rhapsody.model.task import Task, TaskOptions

if TYPE_CHECKING:
    from rhapsody.abc import RetryPolicy
    from rhapsody.model.policy import Policy
    from rhapsody.model.service import Needed
    from rhapsody.model.task import WhenDependencyFails

Messages: TypeAlias = "Sequence[Mapping[str, Any]]"
"""A chat: each has a `role` and a `content`, as OpenAI's API has it."""
Prompt: TypeAlias = "str | Messages"

_OURS = {
    "model": "model=",
    "prompt": "the prompt",
    "messages": "the prompt",
    "input": "the prompt",
    "stream": "none: an answer comes as a whole",
    "stream_options": "none: an answer comes as a whole",
    "n": "a list of prompts",
}
"""Fields of OpenAI's API that `parameters` cannot set, and what to use instead."""
_NOT_EMBEDDING = ("max_tokens", "temperature", "top_p", "stop", "seed")
_ASKED_AGAIN = TaskOptions(idempotent=True)


class Usage(NamedTuple):
    """What an answer has cost, as the server says; of a batch all answers together.

    Attributes:
        tokens_in: Of the prompts.
        tokens_out: Of the answers.
    """

    tokens_in: int
    tokens_out: int


class AITask(Task):
    """A request to a model, or one for each prompt of a batch. It takes no slot of the allocation.

    What is asked goes to a replica that has room: `model=` names the model, `service=` the service that serves it.
    With neither, the only model of the session is asked. With a service the task waits until that is ready.

    How the prompt is asked follows from what it is: a text goes to `/v1/completions` as it is; messages go to
    `/v1/chat/completions`, and so does a text with `system`; with `embed` texts go to `/v1/embeddings`. A list of
    prompts is a batch: each is a request of its own, and `response` has the answers in their order.

    Args:
        prompt: A text; messages, such as `[{"role": "user", "content": "Hi"}]`; a list of such prompts; a task whose
            value is one of these; or a function that returns one. Tasks inside are replaced by their values.
        args: What a function is called with; tasks among them are replaced by their values. It is called in a thread
            of the session's process, once an attempt.
        service: That serves the model, as `Session.start` returns it.
        model: Its name.
        system: What the model is told before: the first message of the chat.
        max_tokens: Longest answer.
        temperature: Of the sampling.
        top_p: Of the sampling.
        stop: Texts at which an answer ends.
        seed: Of the sampling.
        parameters: Any other field of the request, as the server knows it.
        embed: Ask for embeddings: a list of numbers for each prompt.
        uid: As for `ComputeTask`.
        priority: As for `ComputeTask`.
        timeout_s: Seconds from RUNNING after which the attempt is given up and counts as failed.
        after: As for `ComputeTask`.
        idempotent: It may be asked twice. Unless you say otherwise it is when nobody knows whether it was answered.
        retry: As for `ComputeTask`. Without it other replicas are tried all the same.
        policy: Overrides the session's, field by field.
        when_dependency_fails: As for `ComputeTask`.

    Attributes:
        model: Set by the session where it was not given.
        usage: What the answer has cost; None where the server did not say so, until DONE, and in a resumed run.

    Raises:
        SpecError: There is no prompt, or a value is wrong.
    """

    __slots__ = ("args", "embed", "fields", "model", "prompt", "system", "usage")

    kind = "ai"

    def __init__(  # noqa: PLR0913 - one description of a request, all but the first by keyword
        self,
        prompt: str | Task | Sequence[Any] | Callable[..., Any],
        *,
        args: Sequence[Any] = (),
        service: Needed | None = None,
        model: str | None = None,
        system: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        parameters: Mapping[str, Any] | None = None,
        embed: bool = False,
        uid: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        after: Sequence[Task] = (),
        idempotent: bool = True,
        retry: int | RetryPolicy | None = None,
        policy: Policy | None = None,
        when_dependency_fails: WhenDependencyFails = "fail",
    ) -> None:
        options = TaskOptions(
            timeout_s=timeout_s,
            after=_tuple_of("after", after),
            idempotent=idempotent,
            retry=retry,
            policy=policy,
            when_dependency_fails=when_dependency_fails,
            needs=() if service is None else (_gate_of(service),),
        )
        super().__init__(uid, SERIAL, priority, _ASKED_AGAIN if options == _ASKED_AGAIN else options)
        sampling = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "stop": stop, "seed": seed}
        self.prompt = prompt
        self.args = _tuple_of("args", args)
        self.model = model
        self.system = system
        self.embed = bool(embed)
        self.fields = _fields_of(sampling, parameters)
        self.usage: Usage | None = None
        _require_texts(self)
        _require_prompt(self)

    @property
    def gate(self) -> Gate | None:
        """Of the service that it waits for."""
        return self.options.needs[0] if self.options.needs else None

    @property
    def function(self) -> Callable[..., Any] | None:
        """What makes the prompt, if a function does."""
        return self.prompt if callable(self.prompt) else None

    @property
    def label(self) -> str:
        """Whom it asks, for people: the model, or the service."""
        return self.model or (self.gate.name if self.gate is not None else "a model")

    @property
    def response(self) -> Any:  # noqa: ANN401 - a text, numbers, or a list of either
        """The text, or the numbers of an embedding; of a batch the list of them. None until DONE, and if it failed.

        An answer that calls tools is the message as the server sent it, a dict.
        """
        return self.value


def prompts_of(prompt: object) -> tuple[list[Prompt], bool]:
    """Return the prompts in a value, and whether they are a batch.

    Raises:
        SpecError: It is no prompt.
    """
    if isinstance(prompt, str):
        return [prompt], False
    if not isinstance(prompt, list | tuple) or not prompt:
        raise _no_prompt(prompt)
    if all(isinstance(each, Mapping) for each in prompt):
        _require_messages(prompt)
        return [prompt], False
    for each in prompt:
        if isinstance(each, list | tuple) and each:
            _require_messages(each)
        elif not isinstance(each, str):
            raise _no_prompt(each)
    return list(prompt), True


def _no_prompt(found: object) -> SpecError:
    shown = repr(found)
    return SpecError(
        f"{shown[:200]} of type {type(found).__name__} is no prompt; that is a text, messages such as"
        ' [{"role": "user", "content": "Hi"}], or a list of prompts'
    )


def _require_messages(messages: Sequence[Any]) -> None:
    for each in messages:
        if not isinstance(each, Mapping) or not isinstance(each.get("role"), str):
            shown = repr(each)[:200]
            raise SpecError(f'{shown} is no message: it needs a role, such as {{"role": "user", "content": …}}')


def _require_prompt(task: AITask) -> None:
    prompt = task.prompt
    if prompt is None:
        raise SpecError("AITask needs a prompt: a text, messages, a list of prompts, a task, or a function")
    if callable(prompt):
        return
    if task.args:
        raise SpecError("AITask(args=…) are what a function is called with; the prompt is none")
    if isinstance(prompt, str) or next(find_tasks(prompt), None) is not None:
        return  # what tasks give is seen when it is asked
    prompts, _ = prompts_of(prompt)
    require_askable(task, prompts)


def require_askable(task: AITask, prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that do not go with what else is asked.

    Raises:
        SpecError: They do not.
    """
    if not (task.embed or task.system is not None) or all(isinstance(each, str) for each in prompts):
        return
    if task.embed:
        raise SpecError("AITask(embed=True) takes texts, no messages")
    raise SpecError("AITask(system=…) goes with texts; of messages make it the first one, with the role system")


def _require_texts(task: AITask) -> None:
    for name in ("model", "system"):
        value = getattr(task, name)
        if value is not None and (not isinstance(value, str) or not value):
            raise SpecError(f"AITask({name}={value!r}) must be a text")
    if task.embed and (task.system is not None or any(name in task.fields for name in _NOT_EMBEDDING)):
        raise SpecError(f"AITask(embed=True) asks for no text: leave out system, {', '.join(_NOT_EMBEDDING)}")


def _fields_of(sampling: dict[str, Any], parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a request besides model and prompt."""
    fields = {name: value for name, value in sampling.items() if value is not None}
    if parameters is not None:
        if not isinstance(parameters, Mapping) or not all(isinstance(name, str) for name in parameters):
            raise SpecError(f"AITask(parameters={parameters!r}) is no dict with texts as keys")
        for name in parameters:
            if name in _OURS:
                raise SpecError(f"AITask(parameters={{{name!r}: …}}) cannot be set; use {_OURS[name]}")
            if name in fields:
                raise SpecError(f"AITask({name}=…) is given twice, also in parameters")
        fields |= parameters
    try:
        msgspec.json.encode(fields)
    except (TypeError, ValueError) as exc:
        raise SpecError(f"AITask: a parameter cannot be sent as JSON: {exc}") from exc
    return fields


def _gate_of(service: object) -> Gate:
    gate = getattr(service, "gate", None)
    if not isinstance(gate, Gate):
        raise SpecError(f"AITask(service={service!r}) is no service; give what session.start returns")
    return gate


def _tuple_of(name: str, value: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Task) or not isinstance(value, Sequence):
        raise SpecError(f"{name}={value!r} is no list or tuple; for a single one write {name}=[{value!r}]")
    return tuple(value)
