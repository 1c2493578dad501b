"""What was handed to another node and not reported on, so that nothing is forgotten when the node is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.abc import Report
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.backends.member import Chunk

RUNNING = State.RUNNING


class OpenTasks:
    """The attempts, and ranges of items, that are open on a node."""

    def __init__(self) -> None:
        self._attempts: dict[int, int] = {}
        """By number."""
        self._items: dict[tuple[int, int], list[tuple[int, int]]] = {}
        """Open ranges of array tasks, by number and attempt."""

    def __contains__(self, attempt: tuple[int, int]) -> bool:
        return self._attempts.get(attempt[0]) == attempt[1] or any(number == attempt[0] for number, _ in self._items)

    def add(self, chunk: Chunk) -> None:
        """Note what is handed over."""
        if chunk.items is None:
            self._attempts.update(zip(chunk.numbers, chunk.attempts, strict=True))
        else:
            self._items[chunk.numbers[0], chunk.attempts[0]] = [chunk.items]

    def settle(self, reports: Sequence[Report]) -> None:
        """Drop what was reported on."""
        attempts = self._attempts
        for report in reports:
            if report[2] is RUNNING:
                continue
            items = report[8]
            if items is None:
                attempts.pop(report[0], None)
            else:
                self._settle_items((report.number, report.attempt), items)

    def _settle_items(self, key: tuple[int, int], settled: tuple[int, int]) -> None:
        first, end = settled
        rest = [
            part
            for begin, stop in self._items.pop(key, [])
            for part in ((begin, min(stop, first)), (max(begin, end), stop))
            if part[0] < part[1]
        ]
        if rest:
            self._items[key] = rest

    def lost(self, reason: str) -> list[Report]:
        """Report everything that is open UNKNOWN, and forget it."""
        failure = Failure(Cause.LOST, reason)
        return [head._replace(state=State.UNKNOWN, failure=failure) for head in self._drop()]

    def given_back(self) -> list[Report]:
        """Report everything that is open as never started, and forget it."""
        return list(self._drop())

    def _drop(self) -> Iterator[Report]:
        attempts, self._attempts = self._attempts, {}
        items, self._items = self._items, {}
        for number, attempt in attempts.items():
            yield Report(number, attempt, State.READY)
        for (number, attempt), ranges in items.items():
            for part in ranges:
                yield Report(number, attempt, State.READY, items=part)
