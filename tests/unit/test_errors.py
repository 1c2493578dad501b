"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from rhapsody import errors
from rhapsody.errors import (
    BackendError,
    JournalError,
    RemoteError,
    RhapsodyError,
    SessionClosedError,
    SpecError,
    TaskCanceled,
    TaskError,
    TaskFailed,
    TaskUnknown,
    unknown_name,
)

PLAIN = [RhapsodyError, SpecError, BackendError, JournalError, SessionClosedError]
OF_TASKS = [TaskError, TaskFailed, TaskCanceled, TaskUnknown]


def test_every_error_of_the_package_is_of_one_tree() -> None:
    found = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, BaseException)]

    assert len(found) > 9
    assert [each for each in found if not issubclass(each, RhapsodyError)] == []


def test_a_wrong_input_is_a_value_error_too() -> None:
    assert issubclass(SpecError, ValueError)


@pytest.mark.parametrize("kind", PLAIN)
def test_an_error_survives_its_way_to_another_process(kind: type[RhapsodyError]) -> None:
    back = pickle.loads(pickle.dumps(kind("what, where, fix")))  # noqa: S301 - made here

    assert type(back) is kind
    assert str(back) == "what, where, fix"


@pytest.mark.parametrize("kind", OF_TASKS)
def test_an_error_of_a_task_keeps_uid_and_cause_on_its_way(kind: type[TaskError]) -> None:
    back = pickle.loads(pickle.dumps(kind("x: boom", "x", "exception")))  # noqa: S301 - made here

    assert type(back) is kind
    assert (str(back), back.uid, back.cause) == ("x: boom", "x", "exception")


def test_a_stand_in_for_a_foreign_exception_keeps_its_type_and_text() -> None:
    back = pickle.loads(pickle.dumps(RemoteError("lib.Odd", "boom")))  # noqa: S301 - made here

    assert (back.type_name, back.message, str(back)) == ("lib.Odd", "boom", "lib.Odd: boom")


def test_a_wrong_name_lists_the_valid_ones_in_order() -> None:
    error = unknown_name("backend", "dragoon", {"local", "auto"})

    assert type(error) is SpecError
    assert str(error) == "unknown backend 'dragoon'; valid: auto, local"
