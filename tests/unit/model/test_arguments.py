"""Tasks among arguments."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsody.model.arguments import find_tasks, replace_tasks
from rhapsody.model.task import ComputeTask

TASK = ComputeTask(len)
SCALARS = st.none() | st.integers() | st.text() | st.booleans() | st.binary()


class Pair(NamedTuple):
    """A container that is no plain tuple."""

    a: Any


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
    )


@given(nested(SCALARS))
def test_arguments_without_tasks_stay_as_they_are(value: Any) -> None:  # noqa: ANN401 - anything
    assert list(find_tasks(value)) == []
    assert replace_tasks(value, lambda _: None) == value


@given(nested(SCALARS | st.just(TASK)))
def test_what_is_found_is_what_is_replaced(value: Any) -> None:  # noqa: ANN401 - anything
    replaced: list[object] = []

    result = replace_tasks(value, replaced.append)

    assert replaced == list(find_tasks(value))
    assert list(find_tasks(result)) == []


def test_containers_keep_their_kind() -> None:
    assert replace_tasks((TASK, [TASK], {"a": TASK}), lambda _: 1) == (1, [1], {"a": 1})


@pytest.mark.parametrize("value", [{TASK}, OrderedDict(a=TASK), Pair(TASK), iter([TASK])])
def test_other_containers_are_not_looked_into(value: Any) -> None:  # noqa: ANN401 - anything
    assert list(find_tasks(value)) == []
    assert replace_tasks(value, lambda _: 1) is value
