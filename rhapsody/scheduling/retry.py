"""Asking whether a failed attempt is followed by another; what a user's policy does wrong hurts its own task only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhapsody.model.event import State

if TYPE_CHECKING:
    from rhapsody.abc import RetryPolicy
    from rhapsody.model.outcome import Failure

LOST_LIMIT = 3
"""Launches of what is idempotent and whose end nobody saw."""


def delay_before_next(policy: RetryPolicy | None, attempt: int, failure: Failure) -> float | None:
    """Return the seconds before the next attempt, or None to give up.

    A policy that raises, or returns what is no delay, gives up, and the failure's message says so.
    """
    if policy is None:
        return None
    try:
        delay_s = policy.delay_before_next(attempt, failure)
        if delay_s is None or 0 <= delay_s < math.inf:
            return delay_s
        problem = f"delay_before_next returned {delay_s!r}"
    except Exception as exc:  # noqa: BLE001 - a user's policy may raise anything
        problem = f"{type(exc).__name__}: {exc}"
    failure.message = f"{failure.message}; its retry policy failed: {problem}"
    return None


def delay_when_lost(state: State, attempt: int, *, idempotent: bool) -> float | None:
    """Return 0 for an attempt that nobody saw end and that may be repeated, else None."""
    return 0.0 if state is State.UNKNOWN and idempotent and attempt < LOST_LIMIT else None
