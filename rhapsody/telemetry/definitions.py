"""What the journal writes of accepted tasks: what many have in common once, and the fingerprints of their inputs."""

from __future__ import annotations

import marshal
from itertools import chain, repeat
from operator import attrgetter
from typing import TYPE_CHECKING

from rhapsody.model.arguments import SCALARS
from rhapsody.model.fingerprint import MARSHAL, Codes, fingerprint_of_plain, has_own_inputs, inputs_of
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task
from rhapsody.telemetry.frames import MAX_EVENTS, Definition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rhapsody.abc import Edges
    from rhapsody.model.resources import Resources

MAX_LABEL_CHARS = 300
_MEAN_BYTES = 64
"""Marshalled arguments that are longer than this, on the mean of a batch, are written as fingerprints."""
_kwargs, _arguments, _options, _args = map(attrgetter, ("kwargs", "arguments", "options", "args"))


class Definitions:
    """Gives ids to what tasks have in common, and remembers which of them are not written yet."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, str, int, Resources, bytes], int] = {}
        self._codes = Codes()
        self.fresh: list[Definition] = []

    @property
    def first_fresh(self) -> int:
        """Id of the first one that is not written yet."""
        return len(self._ids) - len(self.fresh)

    def written(self) -> None:
        """Take note that the fresh ones are in a frame."""
        self.fresh = []

    def runs(self, batch: Sequence[Task]) -> list[tuple[int, int]]:
        """Return from which position of the batch on tasks have which id."""
        if len(self._ids) > MAX_EVENTS:  # labels without end: begin anew; the reader does so too
            self._ids.clear()
            self.fresh = []
        runs = []
        kind = function = executable = resources = priority = None
        known: dict[tuple[type[Task], int, str | None, int, int, str], int] = {}
        for at, task in enumerate(batch):
            if (
                type(task) is ComputeTask
                and kind is ComputeTask
                and task.function is function
                and task.resources is resources
                and task.priority == priority
                and task.executable == executable
            ):
                continue
            kind, function = type(task), getattr(task, "function", None)
            executable = getattr(task, "executable", None)
            resources, priority = task.resources, task.priority
            # ids are those of other objects once the tasks are gone: so they are known for this batch only
            # for all but the most frequent kind, what is not among these shows in the label
            label = "" if kind is ComputeTask else label_of(task)
            key = (kind, id(function), executable, id(resources), priority, label)
            if key not in known:
                known[key] = self._id_of(task)
            runs.append((at, known[key]))
        return runs

    def _id_of(self, task: Task) -> int:
        label = label_of(task)
        key = (task.kind, label, task.priority, task.resources, self._codes.of(task))
        if key not in self._ids:
            self._ids[key] = len(self._ids)
            self.fresh.append(Definition.of(*key))
        return self._ids[key]


def inputs_column(batch: Sequence[Task], edges: Edges) -> bytes | list[bytes]:
    """Return the fingerprints of the inputs of tasks; where all have plain arguments only, these themselves."""
    plain = None if edges else _plain_arguments(batch)
    return plain if plain is not None else [inputs_of(task, edges.get(task, ())) for task in batch]


def inputs_in(column: bytes | list[bytes], count: int) -> Iterable[bytes]:
    """Return the fingerprints of so many tasks from what `inputs_column` made of them.

    Raises:
        ValueError: It is no such column.
    """
    if isinstance(column, list):
        return column
    if not column:
        return repeat(fingerprint_of_plain(()), count)
    arguments = marshal.loads(column)  # noqa: S302 - plain values only, and the frame's checksum was right
    if not isinstance(arguments, list) or len(arguments) != count:
        raise ValueError(f"the arguments are not those of {count} tasks")
    return map(fingerprint_of_plain, arguments)


def _plain_arguments(batch: Sequence[Task]) -> bytes | None:
    """Return the arguments of all tasks, marshalled; None where one has others than plain positional ones."""
    if set(map(type, batch)) != {ComputeTask} or any(map(_kwargs, batch)) or any(map(_arguments, batch)):
        return None
    options = list(map(_options, batch))
    if options.count(DEFAULT_OPTIONS) < len(options) and any(map(has_own_inputs, options)):
        return None
    arguments = list(map(_args, batch))
    if not any(arguments):
        return b""
    if not SCALARS.issuperset(map(type, chain.from_iterable(arguments))):
        return None
    data = marshal.dumps(arguments, MARSHAL)
    return data if len(data) <= _MEAN_BYTES * len(batch) else None


def label_of(task: Task) -> str:
    """Return what a task runs, as the journal has it."""
    return plain_text(getattr(task, "label", task.kind), MAX_LABEL_CHARS)


def plain_text(text: str, most: int) -> str:
    """Return the text cut to so many characters, with what UTF-8 cannot say written out."""
    return text[:most].encode(errors="backslashreplace").decode()
