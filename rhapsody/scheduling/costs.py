"""How long functions take, learned from what they took: decides how many go to a worker at once."""

from __future__ import annotations

from typing import Any

_NEW_WEIGHT = 0.25
_FUNCTIONS_KEPT = 10_000


class Costs:
    """Mean durations in nanoseconds, by the function's code: all closures of one `def` share theirs."""

    def __init__(self) -> None:
        self._means: dict[Any, float] = {}

    def mean_ns(self, function: object) -> float | None:
        """Return the expected duration of one call, or None when none has ended yet."""
        return self._means.get(_code_of(function))

    def learn(self, function: object, total_ns: int, calls: int) -> None:
        """Take in what some calls took together."""
        code = _code_of(function)
        mean_ns = max(1.0, total_ns / calls)
        known = self._means.get(code)
        if known is None:
            if len(self._means) >= _FUNCTIONS_KEPT:
                self._means.clear()
            self._means[code] = mean_ns
        else:
            self._means[code] = known + (mean_ns - known) * _NEW_WEIGHT


def _code_of(function: object) -> object:
    inner = getattr(function, "func", function)  # functools.partial
    return getattr(inner, "__code__", None) or type(inner)
