"""Tasks among the arguments of other tasks: found at submission, replaced by their values at launch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.model.task import ARGUMENT_DEPTH, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCALARS = frozenset({int, float, str, bool, bytes, type(None), complex})
"""Types in whose values no task can be."""


def find_tasks(value: Any, depth: int = ARGUMENT_DEPTH) -> Iterator[Task]:  # noqa: ANN401 - any argument
    """Yield the tasks in an argument: itself, or inside lists, tuples and dict values, at most `depth` levels deep."""
    kind = type(value)
    if kind in SCALARS:
        return
    if isinstance(value, Task):
        yield value
    elif depth and kind in (list, tuple):
        for item in value:
            yield from find_tasks(item, depth - 1)
    elif depth and kind is dict:
        for item in value.values():
            yield from find_tasks(item, depth - 1)


def replace_tasks(value: Any, value_of: Callable[[Task], Any], depth: int = ARGUMENT_DEPTH) -> Any:  # noqa: ANN401
    """Return an argument with each task that `find_tasks` finds replaced by `value_of(task)`; the rest is shared."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if isinstance(value, Task):
        return value_of(value)
    if not depth or kind not in (list, tuple, dict):
        return value
    if kind is dict:
        return {key: replace_tasks(item, value_of, depth - 1) for key, item in value.items()}
    return kind(replace_tasks(item, value_of, depth - 1) for item in value)
