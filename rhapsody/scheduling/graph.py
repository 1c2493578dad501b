"""Dependencies between tasks: who waits for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.ai import AITask
from rhapsody.model.arguments import SCALARS, find_tasks
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import ComputeTask, Task

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


class Links:
    """What a task waits for, and what waits for it; hangs on `Task.links`.

    Attributes:
        waiting: Dependencies that have not ended.
        dependents: Tasks that wait for this one.
    """

    __slots__ = ("dependents", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self.dependents: list[Task] = []


def has_arguments(task: Task) -> bool:
    """Return whether a task has anything in which others could be named, beyond its options."""
    return type(task) is not ComputeTask or bool(task.args or task.kwargs or task.arguments)


def dependencies_of(task: Task) -> list[Task]:
    """Return the tasks that a task names, each once: among its arguments, and in `after`."""
    found: list[Task] = []
    given: Iterable[Any] = ()
    if isinstance(task, ComputeTask):
        given = (*task.args, *task.arguments, *task.kwargs.values()) if task.kwargs else (*task.args, *task.arguments)
    elif isinstance(task, AITask):
        given = (task.prompt, *task.args)
    elif isinstance(task, ArrayTask):
        _refuse_tasks_as_items(task)
    for value in given:
        if type(value) not in SCALARS:
            found.extend(find_tasks(value))
    found.extend(task.options.after)
    return list(dict.fromkeys(found)) if found else found


def _refuse_tasks_as_items(array: ArrayTask) -> None:
    if type(array.items) not in (list, tuple):
        return
    for item in array.items:
        if isinstance(item, Task):
            raise SpecError(
                f"map over tasks (item {item!r}): items are passed as they are; await the tasks and map over their"
                " values, or submit one ComputeTask per task"
            )


def link(task: Task, dependencies: Iterable[Task]) -> bool:
    """Let a task wait for those dependencies that have not ended; return whether it has to wait."""
    links = task.links = task.links or Links()
    for dependency in dependencies:
        if not dependency.is_final:
            if dependency.links is None:
                dependency.links = Links()
            dependency.links.dependents.append(task)
            links.waiting += 1
    return bool(links.waiting)


def tell_dependents(task: Task) -> tuple[list[Task], list[Task]]:
    """Return the dependents of a task that has ended: those that wait for nothing more, and those that cannot run."""
    dependents, task.links.dependents = task.links.dependents, []
    freed: list[Task] = []
    stuck: list[Task] = []
    for dependent in dependents:
        if dependent.state is not State.WAITING:
            continue
        if task.state is not State.DONE and dependent.options.when_dependency_fails == "fail":
            stuck.append(dependent)
            continue
        dependent.links.waiting -= 1
        if dependent.links.waiting == 0:
            freed.append(dependent)
    return freed, stuck


def failure_by(dependency: Task) -> Failure:
    """Return why a task cannot run that depends on one which did not end well."""
    why = dependency.failure or Failure(Cause.LOST, "nobody knows why")
    if why.cause == Cause.DEPENDENCY:
        text = why.message  # it names the first one; a chain may be long
    else:
        text = f"{dependency.uid}, which it depends on, ended {dependency.state}: {why.message}"
    return Failure(Cause.DEPENDENCY, text, why.exception, why.traceback)


def require_known(task: Task, dependencies: Iterable[Task], batch: Collection[int], live: Collection[int]) -> None:
    """Refuse dependencies that nobody will ever run.

    Args:
        task: Who depends.
        dependencies: On whom.
        batch: Numbers of the tasks submitted together with it.
        live: Numbers of the session's tasks that have not ended.

    Raises:
        SpecError: One was not submitted, or runs in another session.
    """
    for dependency in dependencies:
        if dependency.number in batch or dependency.number in live or dependency.is_final:
            continue
        if dependency.state is State.NEW:
            problem = f"{dependency.uid}, which was not submitted; submit both in one list, or that one first"
        else:
            problem = f"{dependency.uid}, which runs in another session; await it and pass its value"
        raise SpecError(f"task {task.uid} depends on {problem}")


def require_acyclic(edges: dict[Task, Sequence[Task]]) -> None:
    """Refuse tasks that wait for each other in a circle.

    Args:
        edges: For tasks of one batch that have any, their dependencies.

    Raises:
        SpecError: There is a cycle; the text names it.
    """
    settled: set[Task] = set()
    for start in edges:
        path: dict[Task, None] = {}
        stack: list[tuple[Task, bool]] = [(start, True)]
        while stack:
            task, entering = stack.pop()
            if not entering:
                del path[task]
                settled.add(task)
            elif task in path:
                names = [each.uid for each in path]
                circle = [*names[names.index(task.uid) :], task.uid]
                raise SpecError(f"these tasks wait for each other: {' → '.join(circle)}; break the cycle")
            elif task not in settled:
                path[task] = None
                stack.append((task, False))
                stack.extend((each, True) for each in edges.get(task, ()))
