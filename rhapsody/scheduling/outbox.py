"""What leaves the scheduler: launches and news of ends, each only once the journal has it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from rhapsody.errors import JournalError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rhapsody.abc import Assignment, Backend, EventSink
    from rhapsody.model.task import Task

JOURNAL_RETRY_S = 1.0


class Outbox:
    """Writes the journal, then launches, then tells: nobody hears of what could be forgotten.

    Args:
        sink: The journal.
        backend: Gets the launches.
        notify: Called with one line for the user when the journal cannot be written, and when it can again.
        resumed: Called then, too.

    Attributes:
        launches: What is to be launched; told to the sink already.
        ended: Tasks whose watchers are to be told.
    """

    def __init__(
        self, sink: EventSink, backend: Backend, notify: Callable[[str], None], resumed: Callable[[], None]
    ) -> None:
        self._sink = sink
        self._backend = backend
        self._notify = notify
        self._resumed = resumed
        self._timer: asyncio.TimerHandle | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._late_cancels: list[tuple[int, int]] = []
        """Attempts cancelled before they were launched."""
        self.launches: list[Assignment] = []
        self.ended: list[Task] = []

    @property
    def stalled(self) -> bool:
        """Whether everything waits since the journal cannot be written."""
        return self._timer is not None

    def flush(self) -> None:
        """Let out what the journal has taken; while it takes nothing, try again every now and then."""
        if self._timer is not None:
            return
        try:
            self._sink.commit()
        except JournalError as exc:
            self._notify(f"{exc}; nothing new starts until it can be written again")
            self._flowing.clear()
            self._wait()
        else:
            self._let_out()

    def cancel(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Have the backend stop attempts, those too that it will get only now."""
        self._backend.cancel(attempts)
        if self.launches:
            self._late_cancels += attempts

    async def written(self) -> None:
        """Return as soon as the journal has everything."""
        await self._flowing.wait()

    def abandon(self) -> None:
        """Launch nothing more; tell of all ends, whether the journal can be written or not."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.launches = []
        with suppress(JournalError):  # whoever closes the journal hears of it
            self._sink.commit()
        self._let_out()
        self._flowing.set()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(JOURNAL_RETRY_S, self._try_again)

    def _try_again(self) -> None:
        try:
            self._sink.commit()
        except JournalError:
            self._wait()
            return
        self._timer = None
        self._flowing.set()
        self._notify("the journal can be written again; going on")
        self._let_out()
        self._resumed()

    def _let_out(self) -> None:
        launches, self.launches = self.launches, []
        if launches:
            self._backend.launch(launches)
        if self._late_cancels:
            late, self._late_cancels = self._late_cancels, []
            self._backend.cancel(late)
        ended, self.ended = self.ended, []
        for task in ended:
            watchers = task.watchers
            if watchers is not None:
                task.watchers = None
                for watcher in watchers if type(watchers) is list else (watchers,):
                    watcher(task)
