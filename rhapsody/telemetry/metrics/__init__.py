"""The metrics of a run, as a fold over its journal; `docs/reports.md` defines each of them.

    from rhapsody.telemetry.metrics import measure

    print(measure(folder))

A task's end counts as delivered when it happened: the journal has no other time of it yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.model.task import Task, derived_uid
from rhapsody.telemetry.metrics.measured import Measured, measured
from rhapsody.telemetry.metrics.session_fold import SessionFold
from rhapsody.telemetry.reader import JournalReader, Newcomers, Opened

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rhapsody.telemetry.metrics.figures import SessionFigures
    from rhapsody.telemetry.reader import Changes, JournalTail

__all__ = ["Measured", "Metrics", "measure"]


class Metrics:
    """Folds what a `JournalReader` yields into metrics; `result` may be asked for at any time, and more be taken then.

    Args:
        uid_of: Returns a task's uid by its number, as `JournalReader.uid_of`; derived from the number when None.
    """

    def __init__(self, uid_of: Callable[[int], str] | None = None) -> None:
        self._uid_of = uid_of or (lambda number: derived_uid(Task.kind, number))
        self._past: list[SessionFigures] = []
        self._session: SessionFold | None = None

    def take(self, found: Opened | Newcomers | Changes) -> None:
        """Take what the reader yielded next."""
        if isinstance(found, Opened):
            if self._session is not None:
                self._past.append(self._session.figures())
            self._session = SessionFold(found.session, found.run, self._uid_of)
            return
        if self._session is None:  # the journal's beginning is damaged
            self._session = SessionFold(1, {}, self._uid_of)
        if isinstance(found, Newcomers):
            self._session.accept(found)
        else:
            self._session.change(found)

    def result(self) -> Measured:
        """Return the metrics of what was taken so far."""
        return measured([*self._past, *([self._session.figures()] if self._session is not None else [])])


def measure(folder: Path, on_damage: Callable[[JournalTail], object] | None = None) -> Measured:
    """Return the metrics of a run.

    Args:
        folder: The run folder.
        on_damage: Called with damage of the journal other than at its end, which is then left out.

    Raises:
        JournalError: There is no journal, or it is damaged and `on_damage` is None.
    """
    reader = JournalReader(folder, on_damage)
    metrics = Metrics(reader.uid_of)
    for found in reader:
        metrics.take(found)
    return metrics.result()
