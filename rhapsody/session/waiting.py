"""Waiting for many tasks at the price of one future, however many there are."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Self, TypeVar

from rhapsody.errors import SpecError
from rhapsody.model.event import State
from rhapsody.model.task import Task

AnyTask = TypeVar("AnyTask", bound=Task)


def list_of(tasks: AnyTask | Iterable[AnyTask], verb: str) -> list[AnyTask]:
    """Return one task, or several, as a list.

    Raises:
        SpecError: It is neither; `verb` names what was called.
    """
    if isinstance(tasks, Task):
        return [tasks]
    if not isinstance(tasks, Iterable):
        raise SpecError(f"{verb}() takes a task or a list of tasks, not {tasks!r}")
    return list(tasks)


class Countdown:
    """Counts tasks down as they end; the last one wakes whoever waits."""

    __slots__ = ("_future", "_left", "_tasks")

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._left = 1
        self._tasks: list[Task] = []
        """Those that were watched."""
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        for task in tasks:
            if task.state is State.NEW:
                raise not_submitted(task)
            if not task.state.is_final:
                self._left += 1
                self._tasks.append(task)
                task.watch(self)
        self._count()

    def __call__(self, _task: Task) -> None:
        """Count a task that has ended."""
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if not self._left and not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float | None) -> bool:
        """Return True when all have ended, False when the time is over before."""
        try:
            await asyncio.wait([self._future], timeout=timeout_s)
            return self._future.done()
        finally:
            if not self._future.done():
                self._stop_watching()

    def _stop_watching(self) -> None:
        """Leave no trace: whoever looks again and again must not make the tasks' lists grow."""
        for task in self._tasks:
            if task.watchers is self:
                task.watchers = None
            elif isinstance(task.watchers, list) and self in task.watchers:
                task.watchers.remove(self)


class Arrivals:
    """Tasks in the order in which they end, for `async for`."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._ended: deque[Task] = deque()
        self._left = 0
        self._news = asyncio.Event()
        for task in dict.fromkeys(tasks):
            if task.state is State.NEW:
                raise not_submitted(task)
            self._left += 1
            task.watch(self._arrive)

    def _arrive(self, task: Task) -> None:
        self._ended.append(task)
        self._news.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Task:
        while not self._ended:
            if not self._left:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        self._left -= 1
        if not self._left:
            self._news.set()  # others may iterate over this, too
        task = self._ended.popleft()
        task.look_at()
        return task


def not_submitted(task: Task) -> SpecError:
    """Return the error for waiting for a task that nobody will run."""
    return SpecError(f"task {task.uid} was never submitted; pass it to Session.submit first")


def future_of(task: Task) -> asyncio.Future[Task]:
    """Return a future that is settled as the task is."""
    future: asyncio.Future[Task] = asyncio.get_running_loop().create_future()

    def settle(ended: Task) -> None:
        if future.done():
            return
        if ended.state is State.DONE:
            future.set_result(ended)
        elif (error := ended.exception) is not None:
            future.set_exception(error)

    task.watch(settle)
    return future
