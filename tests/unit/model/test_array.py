"""Describing array tasks."""

from __future__ import annotations

from typing import Any

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.array import ArrayTask
from rhapsody.model.resources import Resources


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk": 0}, r"chunk=0\) must be a whole number of at least 1"),
        ({"chunk": 2.5}, "chunk=2.5"),
        ({"chunk": True}, "chunk=True"),
        ({"resources": Resources(ranks=2)}, "serial; use one task per MPI run"),
        ({"resources": Resources(mpi=True)}, "serial; use one task per MPI run"),
        ({"uid": "a b"}, "is no uid"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        ArrayTask(len, ["a"], **options)


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(SpecError, match=r"function=5\) cannot be called"):
        ArrayTask(5, ["a"])  # type: ignore[arg-type]


def test_it_is_as_long_as_its_items_and_named_after_its_kind() -> None:
    array = ArrayTask(len, range(12))

    assert len(array) == 12
    assert array.uid == f"map.{array.number:06d}"
    assert array.label == "len"
