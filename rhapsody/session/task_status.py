"""What a run's journal knows of one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import JournalError
from rhapsody.model.event import State
from rhapsody.model.task import derived_uid
from rhapsody.telemetry.reader import Changes, JournalReader, Newcomers, Opened

if TYPE_CHECKING:
    from pathlib import Path


class TaskStatus(NamedTuple):
    """One task, as it was at the last look.

    Attributes:
        uid: Its uid.
        kind: `task`, `map`, …
        label: What runs, for people.
        state: Where it is on its way.
        attempt: Number of the last one; 0 before the first.
        detail: Why it did not end well; empty otherwise.
        session: Of the run that knew it last.
        place: Where what it left is kept; None where that is nowhere.
    """

    uid: str
    kind: str
    label: str
    state: State
    attempt: int
    detail: str
    session: int
    place: tuple[int, int] | None = None


class TaskWatcher:
    """Looks at one task of a run; each look reads only what was written since.

    Args:
        run_dir: The run folder.
        uid: Of the task.
    """

    def __init__(self, run_dir: Path, uid: str) -> None:
        self._uid = uid
        self._reader = JournalReader(run_dir, lambda _: None)  # what is said of one task is the best that is known
        self._session = 0
        self._number: int | None = None
        self._found: TaskStatus | None = None

    def look(self) -> TaskStatus | None:
        """Return the task; None where the journal does not know it, or there is none."""
        try:
            for found in self._reader:
                if isinstance(found, Opened):
                    self._session, self._number = found.session, None
                elif isinstance(found, Newcomers):
                    self._meet(found)
                elif self._number is not None and self._number in found.numbers:
                    self._follow(found, self._number)
        except JournalError:
            pass  # none yet, or damaged where nothing can be read
        return self._found

    def _meet(self, found: Newcomers) -> None:
        for group in found.groups:
            for number in found.numbers[group.start : group.stop] if self._may_be_in(found, group.kind) else ():
                if (found.uids.get(number) or derived_uid(group.kind, number)) == self._uid:
                    self._number = number
                    self._found = TaskStatus(self._uid, group.kind, group.label, State.WAITING, 0, "", self._session)

    def _may_be_in(self, found: Newcomers, kind: str) -> bool:
        """Return whether it is worth to look at every task of a group."""
        if self._uid in found.uids.values():
            return True
        number = self._uid.removeprefix(f"{kind}.")
        return number.isdecimal() and int(number) in found.numbers

    def _follow(self, found: Changes, wanted: int) -> None:
        columns = zip(found.numbers, found.attempts, found.ranges, found.details, found.places, strict=False)
        for number, attempt, items, detail, place in columns:
            if number == wanted and self._found is not None and (items is None or not self._found.state.is_final):
                if items is not None:  # of an array task: it is under way as long as items are
                    self._found = self._found._replace(state=State.RUNNING)
                else:
                    self._found = self._found._replace(state=found.state, attempt=attempt, detail=detail, place=place)
