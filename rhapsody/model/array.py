"""An array task: one function over many items, as one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.task import DEFAULT_OPTIONS, Task, TaskOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.model.outcome import Failure


class ArrayTask(Task):
    """One function applied to each of many items; `Session.map` makes it.

    Its value is the list of return values in the order of the items. It is DONE when every item is; it is FAILED when
    all are settled and some failed: `failures` tells which, and the others' values are in `value` all the same. What
    items print goes to the workers' log in the run folder.

    Args:
        function: Called with one item at a time.
        items: Not copied: leave it alone until the task has ended.
        chunk: Items handed to a worker at a time; None lets their measured duration decide.
        resources: Of one item; serial only.
        uid: As for `ComputeTask`.
        priority: As for `ComputeTask`.
        options: As for `ComputeTask`; retry and timeout are for each item.

    Attributes:
        failures: For each failed item's index, why.
        settled: Items that have ended.
    """

    __slots__ = ("chunk", "failures", "function", "items", "settled")

    kind = "map"

    def __init__(  # noqa: PLR0913 - one description of a task, all but two by keyword
        self,
        function: Callable[[Any], Any],
        items: Sequence[Any],
        *,
        chunk: int | None = None,
        resources: Resources = SERIAL,
        uid: str | None = None,
        priority: int = 0,
        options: TaskOptions = DEFAULT_OPTIONS,
    ) -> None:
        super().__init__(uid, resources, priority, options)
        if not callable(function):
            raise SpecError(f"map(function={function!r}) cannot be called; give a function of one item")
        if chunk is not None and (type(chunk) is not int or chunk < 1):
            raise SpecError(f"map(chunk={chunk!r}) must be a whole number of at least 1")
        if resources.is_mpi:
            raise SpecError(f"map(resources={resources}): items of an array task are serial; use one task per MPI run")
        self.function = function
        self.items = items
        self.chunk = chunk
        self.failures: dict[int, Failure] = {}
        self.settled = 0

    @property
    def label(self) -> str:
        """The function's name, for people."""
        return str(getattr(self.function, "__qualname__", None) or self.function)

    def __len__(self) -> int:
        return len(self.items)
