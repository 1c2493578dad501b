"""Array tasks: one function over many items, each item once, and its failure its own."""

from __future__ import annotations

import functools
import operator
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from rhapsody import ArrayTask, ComputeTask, Session, State, TaskFailed
from tests.contract import work
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: range(0, 3_000, 3), [2 * n for n in range(0, 3_000, 3)]),
        (lambda: list("abc"), ["aa", "bb", "cc"]),
        (lambda: (1.5, 2.5), [3.0, 5.0]),
        (lambda: np.arange(1_000), [2 * n for n in range(1_000)]),
        (lambda: [[1], [2]], [[1, 1], [2, 2]]),
        (lambda: (n for n in range(5)), [0, 2, 4, 6, 8]),
        (list, []),
    ],
    ids=["range", "list", "tuple", "numpy", "lists", "generator", "nothing"],
)
async def test_values_come_in_the_order_of_the_items(
    session: Session, make: Callable[[], Any], expected: list[object]
) -> None:
    array = await session.map(lambda item: item * 2, make())

    await array

    assert list(array.return_value) == expected
    assert session.counts == ({"DONE": len(expected)} if expected else {})


async def test_every_item_runs_exactly_once(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    array = await session.map(lambda item: work.note(ledger, item), range(20_000))

    await array

    assert sorted(map(int, work.lines(ledger))) == list(range(20_000))
    assert array.settled == 20_000


async def test_arrays_and_tasks_share_the_session(session: Session) -> None:
    arrays = [await session.map(functools.partial(operator.add, n), range(500)) for n in range(3)]
    tasks = await session.submit(ComputeTask(abs, args=(-n,)) for n in range(100))

    await session.wait()

    assert [array.return_value for array in arrays] == [list(range(n, 500 + n)) for n in range(3)]
    assert [task.return_value for task in tasks] == list(range(100))


async def test_failing_items_fail_the_array_and_leave_the_other_values(session: Session) -> None:
    def invert(item: int) -> float:
        return 1 / (item % 100)

    array = await session.map(invert, range(1_000))

    with pytest.raises(TaskFailed, match=r"10 of 1,000 items failed; the first is item 0: ZeroDivisionError") as caught:
        await array

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert sorted(array.failures) == list(range(0, 1_000, 100))
    assert array.return_value[:4] == [None, 1.0, 1 / 2, 1 / 3]
    assert array.return_value[999] == 1 / 99
    assert session.counts == {"DONE": 990, "FAILED": 10}


async def test_failing_items_are_tried_again_as_the_retry_says(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def fail_once(item: int) -> int:
        work.note(ledger, item)
        if item % 10 == 3 and work.lines(ledger).count(str(item)) == 1:
            raise ValueError("not yet")
        return item

    array = await session.map(fail_once, range(50), retry=2)
    await array

    tried_twice = {str(n) for n in range(3, 50, 10)}
    noted = work.lines(ledger)
    assert array.return_value == list(range(50))
    assert {item for item in noted if noted.count(item) == 2} == tried_twice
    assert len(noted) == 55


async def test_item_that_kills_its_worker_fails_and_no_item_runs_twice(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def die_at_30(item: int) -> int:
        work.note(ledger, item)
        work.spin(0.002)
        if item == 30:
            work.kill_itself()
        return item

    array = await session.map(die_at_30, range(100), chunk=10)
    await session.wait()

    assert array.state is State.FAILED
    assert 30 in array.failures
    assert array.failures.keys() <= {29, 30}  # of the one before it the value may be lost
    assert "signal 9" in array.failures[30].message
    assert sorted(map(int, work.lines(ledger))) == list(range(100))
    assert [value for value in array.return_value if value is not None] == [
        n for n in range(100) if n not in array.failures
    ]


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        (work.return_lock, "cannot pickle"),
        (work.escape, "past every except"),
        (work.exit_softly, "SystemExit"),
    ],
    ids=["lock", "escape", "sys.exit"],
)
async def test_item_whose_outcome_is_odd_fails_alone(session: Session, bad: Any, text: str) -> None:  # noqa: ANN401 - a function
    array = await session.map(lambda item: bad() if item == 7 else [item], range(40))

    await session.wait()

    assert list(array.failures) == [7]
    assert text in array.failures[7].message
    assert array.return_value == [[n] if n != 7 else None for n in range(40)]


async def test_item_whose_value_cannot_be_read_in_the_session_fails(session: Session) -> None:
    array = await session.map(lambda item: work.return_homesick() if item == 7 else [item], range(40), chunk=1)

    await session.wait()

    assert list(array.failures) == [7]
    assert "far from home" in array.failures[7].message
    assert array.return_value == [[n] if n != 7 else None for n in range(40)]


async def test_item_that_cannot_be_sent_fails_and_those_of_other_chunks_run(session: Session) -> None:
    items: Sequence[object] = [work.Unsendable(SystemExit) if n == 7 else n for n in range(20)]

    array = await session.map(repr, items, chunk=5)
    await session.wait()

    assert array.state is State.FAILED
    assert 7 in array.failures
    assert array.failures.keys() <= {5, 6, 7, 8, 9}
    assert array.return_value[:5] == ["0", "1", "2", "3", "4"]
    assert array.return_value[10:] == [str(n) for n in range(10, 20)]


async def test_child_that_a_function_forks_doubles_nothing_when_it_comes_back(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def fork(item: int) -> int:
        work.note(ledger, item)
        if item % 50 == 10:
            os.fork()
        return item

    array = await session.map(fork, range(200), chunk=100)
    tasks = await session.submit(ComputeTask(fork, args=(n,)) for n in range(200, 400))
    await session.wait()

    assert array.return_value == list(range(200))
    assert [task.return_value for task in tasks] == list(range(200, 400))
    assert sorted(map(int, work.lines(ledger))) == list(range(400))
    assert session.counts == {"DONE": 400}


async def test_array_is_a_dependency_like_any_task(session: Session) -> None:
    array = ArrayTask(lambda item: item * item, range(10))
    total = ComputeTask(sum, args=(array,))
    again = ArrayTask(lambda item: -item, range(3), options=ComputeTask(abs, after=[total]).options)

    await session.submit([array, total, again])
    await session.wait()

    assert (total.return_value, again.return_value) == (285, [0, -1, -2])


async def test_slow_item_does_not_hold_back_the_others(session: Session, tmp_path: Path) -> None:
    gate, ledger = tmp_path / "gate", tmp_path / "ledger"

    def wait_at_0(item: int) -> None:
        if item == 0:
            work.wait_for(gate)
        work.note(ledger, item)

    array = await session.map(wait_at_0, range(400))
    await eventually(lambda: len(work.lines(ledger)) >= 390, within_s=15, what="nearly all others have run")
    gate.touch()
    await array

    assert array.state is State.DONE
