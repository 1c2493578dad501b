"""Every error that RHAPSODY raises, in one tree.

The axis is what to do next: a `SpecError` fails again with the same input, a `BackendError` may not. A task that
failed is a result, not an error of the middleware: awaiting it raises one of the `TaskError`s.

All of them survive pickling, since they travel between processes and nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class RhapsodyError(Exception):
    """Base of everything raised on purpose."""


class SpecError(RhapsodyError, ValueError):
    """The input is wrong: the same input will fail again.

    The text says what was asked for and found, where, and how to mend it.
    """


class BackendError(RhapsodyError):
    """A runtime did not do what it should; another try may work."""


class ServiceError(BackendError):
    """A service is not there as it should be; the text ends with the last lines that it wrote."""


class InferenceError(BackendError):
    """A request to a model was not answered; another try may work.

    Attributes:
        status: Of HTTP: the server's, or what a server in the router's place would say.
        body: The server's own words, as they came; empty where it said nothing.
        retry_after: Seconds that the server wants one to wait, as it wrote them; empty if it did not.
    """

    def __init__(self, message: str, status: int = 502, body: bytes = b"", retry_after: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.body = body
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[InferenceError], tuple[str, int, bytes, str]]:
        return type(self), (str(self), self.status, self.body, self.retry_after)


class RequestRefusedError(SpecError):
    """A model server refused a request: the same request will be refused again.

    Attributes:
        status: Of HTTP, 400 to 499.
        body: The server's own words, as they came.
    """

    def __init__(self, message: str, status: int = 400, body: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    def __reduce__(self) -> tuple[type[RequestRefusedError], tuple[str, int, bytes]]:
        return type(self), (str(self), self.status, self.body)


class JournalError(RhapsodyError):
    """The journal cannot be written or read; the text names file and offset."""


class SessionClosedError(RhapsodyError):
    """The session takes no more tasks: it is draining or closed."""


class TaskError(RhapsodyError):
    """A task ended in another state than DONE.

    Attributes:
        uid: The task's uid.
        cause: One word for grouping, as in `rhapsody.model.outcome.Cause`.
    """

    def __init__(self, message: str, uid: str = "", cause: str = "") -> None:
        super().__init__(message)
        self.uid = uid
        self.cause = cause

    def __reduce__(self) -> tuple[type[TaskError], tuple[str, str, str]]:
        return type(self), (str(self), self.uid, self.cause)


class TaskFailed(TaskError):  # noqa: N818 - the public names carry no suffix
    """The task ran, or could not be started, and failed; `__cause__` is its own exception where it had one."""


class TaskCanceled(TaskError):  # noqa: N818
    """The task was cancelled before it was done. Never `asyncio.CancelledError`: that one cancels the awaiting code."""


class TaskUnknown(TaskError):  # noqa: N818
    """Nobody saw how the task ended, and it may not be run twice without your word (`idempotent=True`)."""


class RemoteError(RhapsodyError):
    """Stands for an exception of a task that could not be pickled.

    Attributes:
        type_name: Qualified name of the original exception's class.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> SpecError:
    """Return the error for a name that does not exist, with the valid ones listed."""
    names = ", ".join(sorted(valid))
    return SpecError(f"unknown {kind} {name!r}; valid: {names}")
