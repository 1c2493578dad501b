"""Reports on tasks whose worker was stopped or has died: who takes the blame, who was cancelled, who may run again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.abc import Report
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.node.processes import describe_exit

if TYPE_CHECKING:
    from rhapsody.backends.member import InFlight


def canceled(task: InFlight, times: tuple[int, int] = (0, 0)) -> Report:
    """Report a task cancelled: while it ran, if there are times, else before."""
    failure = Failure(Cause.CANCELED, "cancelled while it ran" if times[0] else "cancelled before it ran")
    return Report(task.number, task.attempt, State.CANCELED, *times, failure=failure, items=task.items)


def failed(task: InFlight, failure: Failure, times: tuple[int, int] = (0, 0)) -> Report:
    """Report a task failed."""
    return Report(task.number, task.attempt, State.FAILED, *times, failure=failure, items=task.items)


def lost(task: InFlight, reason: str) -> Report:
    """Report a task whose end nobody saw."""
    return Report(task.number, task.attempt, State.UNKNOWN, failure=Failure(Cause.LOST, reason), items=task.items)


def given_back(task: InFlight) -> Report:
    """Report a task that never started."""
    return Report(task.number, task.attempt, State.READY, items=task.items)


def why_it_died(task: InFlight, doomed: str, process: str, exit_code: int) -> Failure:
    """Return the failure of the task that a worker died with.

    Args:
        task: That task.
        doomed: Why the pool killed the worker; empty when somebody else did, or it ended itself.
        process: Which worker, for people.
        exit_code: Negative: the signal.
    """
    if doomed == "timeout":
        limit_s = task.extra.get("timeout_s", 0)
        return Failure(Cause.TIMEOUT, f"it ran longer than timeout_s={limit_s:g} and was ended")
    cause = Cause.SIGNAL if exit_code < 0 else Cause.EXIT_CODE
    return Failure(cause, f"{process} {describe_exit(exit_code)} while it ran this")


def blame_item(task: InFlight, item: int, failure: Failure, times: tuple[int, int]) -> list[Report]:
    """Report the item of an array task that a worker died with, those whose values died with it, and the rest.

    Args:
        task: With the items that were not reported on.
        item: Where the worker was.
        failure: Why it died.
        times: When the item started, and when it died.
    """
    if task.items is None:
        return [failed(task, failure, times)]
    first, stop = task.items
    item = min(max(item, first), stop - 1)
    with_it = Failure(failure.cause, f"finished, but its value was lost with a later item: {failure.message}")
    reports = [failed(task._replace(items=(index, index + 1)), with_it, times) for index in range(first, item)]
    reports.append(failed(task._replace(items=(item, item + 1)), failure, times))
    if item + 1 < stop:
        reports.append(given_back(task._replace(items=(item + 1, stop))))
    return reports
