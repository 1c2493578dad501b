"""What is said of an exception that ends a campaign: whose fault it is, where, and with which exit code."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import rhapsody
from rhapsody.errors import RhapsodyError, SpecError, TaskError

if TYPE_CHECKING:
    from collections.abc import Iterator

INPUT_ERROR = 2
OTHER_ERROR = 1
OUT_OF_TIME = 75
"""Try again later: EX_TEMPFAIL of sysexits.h, which batch scripts test for."""

_NOT_THE_USERS = (f"{Path(rhapsody.__file__).parent}/", f"{sysconfig.get_path('stdlib')}/", "<frozen ")
_INSTALLED = ("/site-packages/", "/dist-packages/")


def exit_code_of(error: BaseException) -> int:
    """Return 2 when the same input would fail again, else 1."""
    return INPUT_ERROR if isinstance(only_cause(error), SpecError) else OTHER_ERROR


def explain(error: BaseException, file: Path | None = None) -> str:
    """Return what to tell the user of an error: the text of our own errors, a traceback of their files for others.

    Args:
        error: What ended the campaign.
        file: The campaign's file; a message names the deepest line of it that led to the error.
    """
    error = only_cause(error)
    if isinstance(error, RhapsodyError):
        where = f"{file.name}:{line}: " if file and (line := _deepest_line(error, file)) else ""
        return f"{where}{error}"
    report = traceback.TracebackException.from_exception(error)
    if not any(_is_users(frame.filename) for part in _linked(report) for frame in part.stack):
        return f"RHAPSODY itself failed; please report this\n{''.join(report.format()).rstrip()}"
    return f"the campaign raised an exception\n{trimmed_traceback(error)}"


def only_cause(error: BaseException) -> BaseException:
    """Return the exception inside groups of one, which task groups wrap around it."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def trimmed_traceback(error: BaseException) -> str:
    """Return the traceback without the frames of RHAPSODY, Python's own modules and installed packages."""
    report = traceback.TracebackException.from_exception(error)
    for part in list(_linked(report)):
        part.stack[:] = [frame for frame in part.stack if _is_users(frame.filename)]
        if issubclass(part.exc_type, TaskError):
            part.__cause__ = None  # its text holds the traceback of where it ran already
    return "".join(report.format()).rstrip()


def _linked(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    """Yield a report and those of every exception that it was raised from, or that it groups."""
    yield report
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            yield from _linked(other)


def _is_users(filename: str) -> bool:
    return not filename.startswith(_NOT_THE_USERS) and not any(part in filename for part in _INSTALLED)


def _deepest_line(error: BaseException, file: Path) -> int:
    """Return the line of the campaign's file nearest to where the error was raised, 0 if none led to it."""
    lines = [
        number for frame, number in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)
    ]
    return lines[-1] if lines else 0
