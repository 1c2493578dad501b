"""Learned durations of functions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from rhapsody.model.array import ArrayTask
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask, TaskOptions
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


def run_of(*arguments: object, **options: Any) -> ComputeTask:  # noqa: ANN401 - options of ComputeTask
    return ComputeTask(executable="gmx", arguments=arguments, **options)


def test_an_executable_is_known_by_its_first_argument() -> None:
    costs = Costs()

    costs.learn_end(run_of("mdrun", "-s", "1.tpr"), 3_600)
    costs.learn_end(run_of("grompp", "-f", "1.mdp"), 400)

    assert costs.expected_ns(run_of("mdrun", "-s", "2.tpr")) == 3_600
    assert costs.expected_ns(run_of("grompp")) == 400


def test_an_executable_with_a_new_first_argument_is_expected_to_take_what_its_like_took_on_the_average() -> None:
    costs = Costs()

    costs.learn_end(run_of("1.dat"), 1_000)
    costs.learn_end(run_of("2.dat"), 2_000)

    assert costs.expected_ns(run_of("3.dat")) == 1_250
    assert costs.expected_ns(run_of()) == 1_250
    assert costs.expected_ns(run_of(run_of())) == 1_250  # a value that is not known yet


def test_an_executable_on_more_ranks_is_another() -> None:
    costs = Costs()

    costs.learn_end(run_of("mdrun", resources=Resources(ranks=4)), 1_000)

    assert costs.expected_ns(run_of("mdrun", resources=Resources(ranks=4))) == 1_000
    assert costs.expected_ns(run_of("mdrun")) is None


def test_executables_and_functions_are_not_taken_for_each_other() -> None:
    costs = Costs()

    costs.learn_end(run_of(), 1_000)
    costs.learn_end(ComputeTask(adder), 500)

    assert costs.expected_ns(ComputeTask(len)) is None
    assert costs.expected_ns(ComputeTask(adder)) == costs.expected_ns(ArrayTask(adder, range(3))) == 500


def test_what_the_user_expects_goes_before_what_was_learned() -> None:
    costs = Costs()
    costs.learn(adder, 500, 1)

    assert costs.expected_ns(ComputeTask(adder, duration_s=2)) == 2e9
    assert costs.expected_ns(ArrayTask(adder, range(3), options=TaskOptions(duration_s=3))) == 3e9


def test_a_task_that_is_warned_needs_twice_the_time_from_the_warning_to_the_end() -> None:
    costs = Costs()
    costs.learn_end(run_of(), 3_600 * 10**9)

    assert costs.expected_ns(run_of(warn_s=60)) == 120e9
    assert costs.expected_ns(run_of(warn_s=60, duration_s=30)) == 30e9


def test_what_is_remembered_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs_module, "_FUNCTIONS_KEPT", 5)
    costs = Costs()
    functions = [eval(f"lambda: {number}") for number in range(20)]  # noqa: S307 - twenty functions with code of their own

    for function in functions:
        costs.learn(function, 100, 1)

    assert sum(costs.mean_ns(function) is not None for function in functions) <= 5
    assert costs.mean_ns(functions[-1]) == 100
