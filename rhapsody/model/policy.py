"""Policies: rules that pick, never what was picked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from rhapsody.errors import SpecError
from rhapsody.model.outcome import Cause

if TYPE_CHECKING:
    from rhapsody.abc import PlacementPolicy, RetryPolicy
    from rhapsody.model.outcome import Failure
    from rhapsody.model.task import Task


@dataclass(frozen=True, slots=True)
class Retry:
    """Try a failed task again, a limited number of times. The built-in `RetryPolicy`.

    Attributes:
        attempts: Attempts in all, the first included.
        delay_s: Seconds before the second attempt.
        factor: Each further delay is so many times the one before.
        causes: Only failures of these causes are tried again; by default what another try may mend. With `Cause.LOST` a
            task whose end nobody saw may run twice; an idempotent one is repeated anyway.
    """

    attempts: int = 3
    delay_s: float = 0.0
    factor: float = 2.0
    causes: frozenset[Cause] = frozenset({Cause.EXCEPTION, Cause.EXIT_CODE, Cause.SIGNAL, Cause.TIMEOUT, Cause.MODEL})

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.delay_s < 0 or self.factor <= 0:
            raise SpecError(
                f"{self} makes no sense: attempts must be at least 1, delay_s not negative, factor positive"
            )
        object.__setattr__(self, "causes", frozenset(Cause(cause) for cause in self.causes))

    def delay_before_next(self, attempt: int, failure: Failure) -> float | None:
        """Return the seconds to wait before the attempt after `attempt`, or None to give up."""
        if attempt >= self.attempts or failure.cause not in self.causes:
            return None
        return self.delay_s * self.factor ** (attempt - 1)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules for tasks: a session has a default one, a task may override it field by field.

    What is None is taken from the session's policy. Names are looked up among the built-in ones; objects that keep the
    contracts of `rhapsody.abc` are used as they are.

    Attributes:
        placement: `"pack"`, `"spread"` or a `PlacementPolicy`.
        backend: Name of the backend that runs the task.
        retry: A `RetryPolicy`; or attempts in all, as a number.
        routing: How requests to models are routed: `"least_tokens"`, `"round_robin"` or `"random"`; the session's only.
        priority: Added to the task's own.
        oversubscribe: The task's cores may be shared with one other oversubscribing or ordinary task.
        colocate_with: Place on nodes of this task, once it is placed.
    """

    placement: str | PlacementPolicy | None = None
    backend: str | None = None
    retry: int | RetryPolicy | None = None
    routing: str | None = None
    priority: int = 0
    oversubscribe: bool = False
    colocate_with: Task | None = None

    def over(self, default: Policy) -> Policy:
        """Return this policy with what it leaves open taken from `default`."""
        chosen = {}
        for item in fields(self):
            own = getattr(self, item.name)
            chosen[item.name] = own if own != item.default else getattr(default, item.name)
        return Policy(**chosen)
