"""Learned durations of functions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from rhapsody.scheduling import costs as costs_module
from rhapsody.scheduling.costs import Costs

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def adder(amount: int) -> Callable[[int], int]:
    return lambda number: number + amount


def test_nothing_is_known_of_a_function_that_never_ended() -> None:
    assert Costs().mean_ns(len) is None


def test_the_first_calls_give_their_mean() -> None:
    costs = Costs()

    costs.learn(adder(1), 3_000, 3)

    assert costs.mean_ns(adder(1)) == 1_000


def test_later_calls_move_the_mean_towards_them() -> None:
    costs = Costs()
    function = adder(1)
    costs.learn(function, 1_000, 1)

    costs.learn(function, 2_000, 1)
    after_one = costs.mean_ns(function)
    for _ in range(50):
        costs.learn(function, 2_000, 1)

    assert after_one is not None
    assert 1_000 < after_one < 2_000
    assert abs((costs.mean_ns(function) or 0) - 2_000) < 10


def test_closures_of_one_function_share_what_is_known() -> None:
    costs = Costs()

    costs.learn(adder(1), 500, 1)

    assert costs.mean_ns(adder(2)) == 500


def test_a_partial_is_known_by_its_function() -> None:
    costs = Costs()

    costs.learn(functools.partial(adder, 1), 500, 1)

    assert costs.mean_ns(adder) == 500


def test_callable_objects_are_known_by_their_class() -> None:
    class Job:
        def __call__(self) -> None:
            """Do nothing."""

    costs = Costs()

    costs.learn(Job(), 500, 1)

    assert costs.mean_ns(Job()) == 500


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs_module, "_FUNCTIONS_KEPT", 5)
    costs = Costs()
    functions = [eval(f"lambda: {number}") for number in range(20)]  # noqa: S307 - twenty functions with code of their own

    for function in functions:
        costs.learn(function, 100, 1)

    assert sum(costs.mean_ns(function) is not None for function in functions) <= 5
    assert costs.mean_ns(functions[-1]) == 100
