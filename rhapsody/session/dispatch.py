"""Splits what the scheduler launches: model requests go to the session's own desk, all else to the runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from rhapsody.abc import Backend
from rhapsody.model.ai import AITask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.abc import Aftermath, Assignment, Listener, RunContext
    from rhapsody.model.task import Task
    from rhapsody.session.models import Models


class Dispatch(Backend):
    """A runtime, and beside it a desk for what takes no slots.

    Args:
        backend: The runtime.
        models: Has the desk; it ends with this.
    """

    def __init__(self, backend: Backend, models: Models) -> None:
        self._backend = backend
        self._models = models
        self.name = backend.name

    @override
    async def recover(self, run_dir: Path, session: int) -> Aftermath:
        return await self._backend.recover(run_dir, session)

    @override
    async def start(self, context: RunContext, listener: Listener) -> None:
        await self._backend.start(context, listener)

    @override
    def check(self, task: Task) -> None:
        """Refuse a task that can never run; of a model request, find out which model it asks."""
        if isinstance(task, AITask):
            self._models.check(task)
        else:
            self._backend.check(task)

    @override
    def launch(self, batch: Sequence[Assignment]) -> None:
        asked = [task for each in batch if not each.placement.slots for task in each.tasks]
        if not asked:
            self._backend.launch(batch)
            return
        self._models.launch([task for task in asked if isinstance(task, AITask)])
        placed = [each for each in batch if each.placement.slots]
        if placed:
            self._backend.launch(placed)

    @override
    def cancel(self, attempts: Sequence[tuple[int, int]]) -> None:
        others = self._models.cancel(attempts)
        if others:
            self._backend.cancel(others)

    @override
    def warn(self, attempts: Sequence[tuple[int, int]]) -> None:
        self._backend.warn(attempts)

    @override
    async def aclose(self) -> None:
        try:
            await self._models.aclose()
        finally:
            await self._backend.aclose()
