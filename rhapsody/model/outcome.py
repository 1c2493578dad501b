"""How a task ended, beyond its state and its value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from rhapsody.model.event import State


class Cause(StrEnum):
    """Why a task failed, in one word: failures are grouped by it."""

    EXCEPTION = "exception"
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    ARGUMENTS = "arguments"
    RESULT = "result"
    LAUNCH = "launch"
    DEPENDENCY = "dependency"
    MODEL = "model"
    """No model server answered."""
    REFUSED = "refused"
    """A model server refused the request, and would do so again."""
    LOST = "lost"
    CANCELED = "canceled"


@dataclass(slots=True)
class Failure:
    """Why an attempt did not end well.

    Attributes:
        cause: One word for grouping.
        message: One sentence: what happened, where.
        exception: The task's own exception, or None.
        traceback: Text of the traceback where it ran, or empty.
        seen: Whether somebody has looked at it: awaited the task, or read its exception.
    """

    cause: Cause
    message: str
    exception: BaseException | None = None
    traceback: str = ""
    seen: bool = False

    @property
    def state(self) -> State:
        """The state of an attempt that ended so."""
        return {Cause.LOST: State.UNKNOWN, Cause.CANCELED: State.CANCELED}.get(self.cause, State.FAILED)


@dataclass(slots=True)
class Stdio:
    """What a task printed, and how its process ended.

    Attributes:
        stdout: The last 64 KiB at most.
        stderr: The last 64 KiB at most.
        exit_code: Of an executable; negative is the signal that ended it. None for functions.
    """

    stdout: str = ""
    stderr: str = ""
    exit_code: int | None = None


class Completed(NamedTuple):
    """The value of an executable task: what flows along an edge to its dependents.

    Attributes:
        exit_code: 0, since a failed executable has no value.
        stdout: The last 64 KiB at most.
        stderr: The last 64 KiB at most.
        cwd: Folder that it ran in.
    """

    exit_code: int
    stdout: str
    stderr: str
    cwd: str
