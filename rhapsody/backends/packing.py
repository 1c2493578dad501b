"""Tasks as workers get them: functions by id, arguments as scalars or pickles, options as a small dict.

Every task's arguments are pickled by themselves, so what cannot be pickled costs that task alone.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import cloudpickle

from rhapsody.abc import Report
from rhapsody.backends import wire
from rhapsody.backends.member import Chunk
from rhapsody.backends.results import pickle_value
from rhapsody.model.arguments import replace_tasks
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rhapsody.model.array import ArrayTask

FUNCTIONS_KEPT = 4096
"""Distinct functions that workers remember; a campaign that makes a lambda per task must not fill their memory."""

CHUNK_BYTES = 4 << 20
"""Pickled arguments of one chunk: what goes beyond is given back, so that memory holds what runs, not what waits."""


class Packer:
    """Packs tasks into chunks for workers.

    Args:
        define: Called with id and bytes of a function that was not seen before.
        forget: Called with the id of a function that has not been used for long.
        logs: Folder for whole outputs.
        grace_s: Seconds between SIGTERM and SIGKILL for an executable that is ended.
    """

    def __init__(
        self, define: Callable[[int, bytes], None], forget: Callable[[int], None], logs: Path, grace_s: float
    ) -> None:
        self._define = define
        self._forget = forget
        self._logs = logs
        self._grace_s = grace_s
        self._known: OrderedDict[int, tuple[int, Callable[..., Any]]] = OrderedDict()
        """Id and function by the function's address; holding the function keeps the address its own."""
        self._next_id = 0

    def pack(  # noqa: PLR0915 - the hot path: a call per task would cost more than the rest of it
        self, tasks: Sequence[ComputeTask], cpus: list[int] | None = None
    ) -> tuple[Chunk | None, list[Report]]:
        """Return functions as a chunk, and reports of those that cannot be packed or are too much for one message.

        Args:
            tasks: Function tasks.
            cpus: CPUs to bind each to while it runs; None leaves it where its worker is bound.
        """
        numbers: list[int] = []
        attempts: list[int] = []
        ids: list[int] = []
        payloads: list[Any] = []
        extras: list[dict[str, Any] | None] = []
        any_extra = False
        room = CHUNK_BYTES
        refused: list[Report] = []
        last_function: Any = None
        last_id = -1
        for task in tasks:
            if room <= 0:
                refused.append(Report(task.number, task.attempt, State.READY))
                continue
            try:
                if task.function is not last_function:
                    last_id = self._id_of(task.function)
                    last_function = task.function
                args = task.args
                if not task.kwargs and (not args or wire.are_scalars(args)):
                    payload: Any = args
                else:
                    payload = pickle_arguments(task)
                    room -= len(payload)
            except BaseException as exc:  # noqa: BLE001 - the user's __reduce__ may raise anything, SystemExit too
                refused.append(unpackable(task, exc))
                last_function = None
                continue
            extra = None
            if cpus or task.attempt > 1 or task.options is not DEFAULT_OPTIONS or task.given_uid is not None:
                extra = self.extra_of(task, cpus)
                any_extra = True
            numbers.append(task.number)
            attempts.append(task.attempt)
            ids.append(last_id)
            payloads.append(payload)
            extras.append(extra)
        if not numbers:
            return None, refused
        return Chunk.of(numbers, attempts, ids, payloads, extras if any_extra else None), refused

    def pack_items(self, task: ArrayTask, items: tuple[int, int], attempt: int, cpus: list[int] | None) -> Chunk:
        """Return a range of an array task's items as a chunk.

        Raises:
            Exception: Whatever pickling the function or the items raises.
        """
        part = task.items[items[0] : items[1]]
        if type(part) is range:
            payload: Any = (part.start, part.stop, part.step)
        else:
            payload = pickle_value(part if type(part) in (list, tuple) else list(part))
        extra = self.extra_of(task, cpus)
        extra["items"] = items
        return Chunk.of([task.number], [attempt], [self._id_of(task.function)], [payload], [extra], items)

    def extra_of(self, task: Task, cpus: list[int] | None) -> dict[str, Any]:
        """Return what a worker must know beyond function and arguments."""
        options = task.options
        extra: dict[str, Any] = {"uid": task.uid, "attempt": task.attempt, "grace_s": self._grace_s}
        if cpus:
            extra["cpus"] = cpus
        if options is DEFAULT_OPTIONS:
            return extra
        if options.env or options.needs:
            extra["env"] = options.environment
        if options.cwd:
            extra["cwd"] = options.cwd
        if options.timeout_s is not None:
            extra["timeout_s"] = float(options.timeout_s)
        if options.capture_stdio:
            extra["capture"] = str(self._logs / f"{task.uid}.{task.attempt}")
        return extra

    def _id_of(self, function: Callable[..., Any] | None) -> int:
        address = id(function)
        known = self._known.get(address)
        if known is not None:
            self._known.move_to_end(address)
            return known[0]
        blob = dump_function(function)
        self._next_id += 1
        self._known[address] = (self._next_id, function)  # type: ignore[assignment]
        self._define(self._next_id, blob)
        if len(self._known) > FUNCTIONS_KEPT:
            _, (oldest, _) = self._known.popitem(last=False)
            self._forget(oldest)
        return self._next_id


def dump_function(function: object) -> bytes:
    """Return a function pickled, by value where no module can give it.

    Raises:
        ValueError: It carries more data than one value may have.
        Exception: Whatever pickling what it closes over raises.
    """
    blob = cloudpickle.dumps(function, protocol=5)
    if len(blob) > wire.VALUE_LIMIT_BYTES:
        raise ValueError(
            f"the function carries {len(blob):,} bytes of data; pass large data as a file or a store's key"
        )
    return bytes(blob)


def pickle_arguments(task: ComputeTask) -> bytes:
    """Return `(args, kwargs)` pickled, tasks among them replaced by their values."""
    args, kwargs = task.args, dict(task.kwargs or {})
    if task.links is not None:
        args = tuple(replace_tasks(arg, value_of) for arg in args)
        kwargs = {name: replace_tasks(arg, value_of) for name, arg in kwargs.items()}
    return pickle_value((args, kwargs))


def value_of(task: Task) -> Any:  # noqa: ANN401 - whatever flows
    """Return what flows from a task: its value, or its error where a dependent wanted to run all the same."""
    return task.value if task.state is State.DONE else task.exception


def unpackable(task: Task, exc: BaseException, *, attempt: int = 0, items: tuple[int, int] | None = None) -> Report:
    """Report a task failed that cannot be sent to a worker.

    Args:
        task: Which.
        exc: What pickling it raised.
        attempt: Of an array task, the number of the launch; else its own.
        items: Of an array task, which.
    """
    text = f"its function or arguments cannot be sent to a worker: {type(exc).__name__}: {exc}"
    failure = Failure(Cause.ARGUMENTS, text, exc)
    return Report(task.number, attempt or task.attempt, State.FAILED, failure=failure, items=items)
