"""A user's script, and the fingerprints of what it defines."""

from __future__ import annotations

import textwrap
from functools import lru_cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rhapsody.model import fingerprint
from rhapsody.model.fingerprint import Codes
from rhapsody.model.task import ComputeTask

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTION = """
    RATE = 0.5
    LIMITS = (1, 2)
    TABLE = {"changes": "while it runs"}

    def helper(value):
        return value + RATE

    class Model:
        size = 3
        kinds: tuple = ("a", "b")

        def __init__(self, weight):
            self.weight = weight

        def predict(self, value):
            return self.weight * value

        @staticmethod
        def clean(value):
            return value.strip()

        @property
        def area(self):
            return self.size ** 2

        def __call__(self, value):
            return value - 1

    class Child(Model):
        pass

    def outer(inner):
        def run(value):
            return inner + value
        return run

    def function(value, most=10, *, least=0):
        if value in {"x", "y", "z"} or value > LIMITS[0]:
            return [item for item in range(value)]
        try:
            first = helper(value)
        except ValueError:
            return None
        else:
            second = Model(first)
        return max(least, min(most, second))
"""


def run_script(text: str, name: str = "rhapsody_campaign", file: str = "campaign.py") -> dict[str, Any]:
    """Return what a script defines."""
    module = ModuleType(name)
    exec(compile(textwrap.dedent(text), file, "exec"), module.__dict__)  # noqa: S102 - our own text
    return module.__dict__


def code_of(what: Callable[..., Any] | str, **options: Any) -> bytes:  # noqa: ANN401 - of the task
    if isinstance(what, str):
        return Codes().of(ComputeTask(executable=what, **options))
    return Codes().of(ComputeTask(what, **options))


def script_code(old: str = "", new: str = "", name: str = "function", module: str = "rhapsody_campaign") -> bytes:
    """Return the fingerprint of a function of the script, in which a text is replaced by another."""
    assert old in FUNCTION
    defined: Any = run_script(FUNCTION.replace(old, new), module)
    makers: dict[str, Callable[[], Callable[..., Any]]] = {
        "closure": lambda: defined["outer"](5),
        "method": lambda: defined["Model"](2).predict,
        "object": lambda: defined["Model"](2),
        "partial": lambda: partial(defined["Model"](2), 3),
        "child": lambda: defined["Child"](2).predict,
        "cached": lambda: lru_cache(defined["function"]),
        "function": lambda: defined["function"],
    }
    code = code_of(makers[name]())
    assert len(code) == fingerprint.DIGEST_BYTES
    return code
