"""What is said of an exception that ends a campaign."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from rhapsody.cli.faults import exit_code_of, explain
from rhapsody.errors import BackendError, SpecError, TaskFailed
from rhapsody.model.resources import Resources

HERE = Path(__file__)


def raised(action: object, *args: object) -> BaseException:
    """Call something that fails and return what it raised."""
    try:
        action(*args)  # type: ignore[operator]
    except BaseException as exc:  # noqa: BLE001 - whatever it is
        return exc
    raise AssertionError(f"{action} raised nothing")


def fail(error: BaseException) -> None:
    raise error


def line_of(text: str) -> int:
    """Return the first line of this file that holds a text."""
    return next(number for number, line in enumerate(HERE.read_text().splitlines(), 1) if text in line)


def ask_for_no_ranks() -> None:
    Resources(ranks=0)  # here


def parse_nothing() -> None:
    try:
        json.loads("")
    except ValueError as exc:
        raise RuntimeError("no input") from exc


def test_wrong_input_is_told_with_the_line_of_the_file_that_led_to_it() -> None:
    error = raised(ask_for_no_ranks)

    text = explain(error, HERE)

    assert text == f"test_faults.py:{line_of('# here')}: Resources.ranks=0 must be at least 1"


def test_error_that_does_not_come_through_the_file_names_no_line() -> None:
    error = raised(fail, BackendError("the runtime is gone"))

    text = explain(error, Path("/elsewhere/study.py"))

    assert text == "the runtime is gone"


def test_traceback_shows_neither_the_standard_library_nor_rhapsody() -> None:
    error = raised(asyncio.run, coroutine_that_fails())

    text = explain(error)

    assert text.startswith("the campaign raised an exception\nTraceback (most recent call last):\n")
    assert text.endswith("ZeroDivisionError: division by zero")
    assert f'File "{HERE}"' in text
    assert "asyncio" not in text


async def coroutine_that_fails() -> float:
    return 1 / 0


def test_traceback_shows_the_exception_it_was_raised_from() -> None:
    text = explain(raised(parse_nothing))

    assert "json.decoder.JSONDecodeError: Expecting value" in text
    assert "json/decoder.py" not in text
    assert text.endswith("RuntimeError: no input")


def test_error_that_comes_through_no_file_of_the_users_is_told_whole_as_a_defect() -> None:
    error = SystemError("broken")

    assert explain(error) == "RHAPSODY itself failed; please report this\nSystemError: broken"


def test_failed_task_is_told_with_its_traceback_once_when_several_failed_in_a_group() -> None:
    remote = "Traceback (most recent call last):\n  File 'dock.py', line 3\nValueError: no pose"
    failures = []
    for number in (1, 2):
        failure = TaskFailed(f"task.{number}: ValueError: no pose\n{remote}", f"task.{number}", "exception")
        failure.__cause__ = ValueError("no pose")
        failures.append(failure)

    text = explain(raised(fail, ExceptionGroup("two", failures)))

    assert text.count("File 'dock.py'") == 2
    assert "direct cause" not in text


def test_exception_alone_in_groups_is_told_as_if_it_were_in_none() -> None:
    inner = SpecError("wrong")
    group = ExceptionGroup("outer", [ExceptionGroup("inner", [inner])])

    assert explain(group) == "wrong"
    assert exit_code_of(group) == 2


def test_exit_code_is_2_for_wrong_input_and_1_for_the_rest() -> None:
    assert exit_code_of(SpecError("")) == 2
    assert exit_code_of(BackendError("")) == 1
    assert exit_code_of(ValueError("")) == 1
