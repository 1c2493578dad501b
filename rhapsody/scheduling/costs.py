"""How long tasks take, learned from what they took: decides how many go to a worker at once, and what ends in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.model.task import ComputeTask

if TYPE_CHECKING:
    from rhapsody.model.array import ArrayTask
    from rhapsody.model.task import Task

_NEW_WEIGHT = 0.25
_FUNCTIONS_KEPT = 10_000
_NAME_LIMIT = 200

Program = tuple[str, int, str | None]
"""Executable, ranks, first argument; None stands for all first arguments."""


class Costs:
    """Mean durations in nanoseconds.

    Functions are known by their code: all closures of one `def` share theirs, whatever their arguments and ranks.

    Executables are known by name, ranks and first argument, since that one often says what the program does: `gmx
    mdrun` takes hours, `gmx grompp` seconds. For a first argument that was never seen, such as the name of an input
    file, what runs of that name and that many ranks took on the average has to do. Further arguments do not matter:
    they mostly name inputs that come once. All scripts of `sh -c` are one program: say `duration_s` where they differ.
    """

    def __init__(self) -> None:
        self._means: dict[Any, float] = {}
        self._programs: dict[Program, float] = {}

    def mean_ns(self, function: object) -> float | None:
        """Return the expected duration of one call, or None when none has ended yet."""
        return self._means.get(_code_of(function))

    def learn(self, function: object, total_ns: int, calls: int) -> None:
        """Take in what some calls took together."""
        _learn(self._means, _code_of(function), max(1.0, total_ns / calls))

    def learn_end(self, task: Task, duration_ns: int) -> None:
        """Take in what one task took; array tasks are learned by their items."""
        if not isinstance(task, ComputeTask):
            return
        if task.function is not None:
            self.learn(task.function, duration_ns, 1)
            return
        name, ranks, first = _program_of(task)
        for program in {(name, ranks, first), (name, ranks, None)}:
            _learn(self._programs, program, max(1.0, duration_ns))

    def expected_ns(self, task: ComputeTask | ArrayTask) -> float | None:
        """Return what a task, or one item of an array task, is expected to take; None when that is not known.

        What the user says goes first. A task that is warned of the end can be ended before it is done: it needs the
        time between warning and end, and as much to do something worth saving.
        """
        options = task.options
        if options.duration_s is not None:
            return options.duration_s * 1e9
        if options.warn_s is not None:
            return 2 * options.warn_s * 1e9
        key = self.key_of(task)
        return self._means.get(key) if task.function is not None else self._programs.get(key)

    def key_of(self, task: ComputeTask | ArrayTask) -> Any:  # noqa: ANN401 - a code object or a `Program`
        """Return what is the same for all tasks of which the same duration is expected."""
        if task.function is not None:
            return _code_of(task.function)
        program = _program_of(task)
        return program if program in self._programs else (*program[:2], None)


def _learn(means: dict[Any, float], key: object, mean_ns: float) -> None:
    known = means.get(key)
    if known is None:
        if len(means) >= _FUNCTIONS_KEPT:
            means.clear()
        means[key] = mean_ns
    else:
        means[key] = known + (mean_ns - known) * _NEW_WEIGHT


def _code_of(function: object) -> object:
    inner = getattr(function, "func", function)  # functools.partial
    return getattr(inner, "__code__", None) or type(inner)


def _program_of(task: ComputeTask) -> Program:
    first = task.arguments[0] if task.arguments else None
    names_it = isinstance(first, str) and len(first) <= _NAME_LIMIT
    return str(task.executable), task.resources.ranks, first if names_it else None
