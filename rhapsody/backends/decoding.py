"""What a worker's records say, as reports with the user's values in them."""

from __future__ import annotations

import marshal
import pickle
from typing import TYPE_CHECKING, Any

from rhapsody.abc import Report
from rhapsody.backends import wire
from rhapsody.backends.results import decode_value
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Completed, Failure, Stdio

if TYPE_CHECKING:
    from collections.abc import Sequence


def decode_items(number: int, attempt: int, times: tuple[int, int], data: bytes) -> list[Report]:
    """Return what a record of items says: those that failed, then all of them as DONE.

    Args:
        number: Of the array task.
        attempt: Of this launch.
        times: When the first of them started, and the last one ended.
        data: What follows the record's head.
    """
    first, count, plain, values, failed = marshal.loads(data)  # noqa: S302 - authenticated
    if not plain:
        values = _unpickle_items(values, range(first, first + count), failed)
    reports = []
    for index, encoded in failed.items():
        failure = _failure(marshal.loads(encoded)) if isinstance(encoded, bytes) else encoded  # noqa: S302
        reports.append(Report(number, attempt, State.FAILED, *times, failure=failure, items=(index, index + 1)))
    reports.append(Report(number, attempt, State.DONE, *times, value=values, items=(first, first + count)))
    return reports


def decode(head: tuple[int, int, int, int], kind: int, data: bytes) -> Report:
    """Return what a record says of a task.

    Args:
        head: Number and attempt of the task, when it started and ended.
        kind: Of the record.
        data: What follows its head.
    """
    number, attempt, started, ended = head
    stdio = None
    rich: dict[str, Any] = {}
    if kind == wire.RICH:
        rich = marshal.loads(data)  # noqa: S302 - authenticated
        if "exit_code" in rich or rich.get("stdout") or rich.get("stderr"):
            stdio = Stdio(rich.get("stdout", ""), rich.get("stderr", ""), rich.get("exit_code"))
        if "cause" in rich:
            state = State.CANCELED if rich["cause"] == "canceled" else State.FAILED
            return Report(number, attempt, state, started, ended, failure=_failure(rich), stdio=stdio)
        kind, data = rich.get("kind", wire.NONE), rich.get("value", b"")
    try:
        value = _value(kind, data, rich)
    except BaseException as exc:  # noqa: BLE001 - the user's __setstate__, or a module that only the worker has
        text = f"its value cannot be read in the session: {type(exc).__name__}: {exc}"
        return Report(
            number, attempt, State.FAILED, started, ended, failure=Failure(Cause.RESULT, text, exc), stdio=stdio
        )
    return Report(number, attempt, State.DONE, started, ended, value, stdio=stdio)


def _value(kind: int, data: bytes, rich: dict[str, Any]) -> Any:  # noqa: ANN401 - the user's value
    if "completed" in rich:
        return Completed(rich["exit_code"], rich["stdout"], rich["stderr"], rich["completed"])
    if "ranks" in rich:
        return [decode_value(*pair) for pair in rich["ranks"]]
    return decode_value(kind, data)


def _failure(rich: dict[str, Any]) -> Failure:
    exception: BaseException | None = None
    if rich.get("exception"):
        try:
            exception = pickle.loads(rich["exception"])  # noqa: S301 - from a worker that showed the token
        except BaseException:  # noqa: BLE001 - a class that only the worker can import: the text says it all
            exception = None
    return Failure(Cause(rich["cause"]), rich["message"], exception, rich.get("traceback", ""))


def _unpickle_items(values: bytes | Sequence[bytes | None], items: range, failed: dict[int, Any]) -> list[Any]:
    try:
        if isinstance(values, bytes):
            return list(pickle.loads(values))  # noqa: S301 - from a worker that showed the token
        return [None if value is None else pickle.loads(value) for value in values]  # noqa: S301
    except BaseException as exc:  # noqa: BLE001 - the user's __setstate__, or a module that only the worker has
        text = f"its value cannot be read in the session: {type(exc).__name__}: {exc}"
        failed.update((index, Failure(Cause.RESULT, text, exc)) for index in items if index not in failed)
        return [None] * len(items)
