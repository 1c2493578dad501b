"""Failed tasks of a session: grouped by cause, and which of them nobody has looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rhapsody.model.outcome import Failure
    from rhapsody.model.task import Task

_FAILURES_KEPT = 10_000


@dataclass(slots=True)
class FailureGroup:
    """Failed tasks of one cause.

    Attributes:
        count: How many.
        example: What one of them said.
        example_uid: Which one.
    """

    count: int
    example: str
    example_uid: str


class Failures:
    """Takes note of failed tasks."""

    def __init__(self) -> None:
        self._groups: dict[str, FailureGroup] = {}
        self._failed: list[tuple[str, Failure]] = []
        """Uids and failures that were not yet taken in."""
        self._unseen: list[Failure] = []

    @property
    def groups(self) -> dict[str, FailureGroup]:
        """Failed tasks, grouped by cause."""
        self._take_in()
        return self._groups

    @property
    def unseen(self) -> int:
        """Failed tasks that nobody awaited, waited for or asked for their exception."""
        self._take_in()
        self._unseen = [failure for failure in self._unseen if not failure.seen]
        return len(self._unseen)

    def note(self, task: Task) -> None:
        """Remember a task that failed."""
        if task.failure is not None:
            self._failed.append((task.uid, task.failure))
        if len(self._failed) >= _FAILURES_KEPT:
            self._take_in()

    def _take_in(self) -> None:
        failed, self._failed = self._failed, []
        for uid, failure in failed:
            group = self._groups.setdefault(failure.cause, FailureGroup(0, failure.message, uid))
            group.count += 1
            if not failure.seen and failure.cause != "dependency" and len(self._unseen) < _FAILURES_KEPT:
                self._unseen.append(failure)
