"""Functions as tasks: what can be called, what it is given, and that each is called once."""

from __future__ import annotations

import asyncio
import functools
import operator
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rhapsody import ComputeTask
from tests.contract import work

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody import Session


class Molecule:
    """A class of the test module: workers get it by importing this file."""

    def __init__(self, atoms: int) -> None:
        self.atoms = atoms

    def doubled(self) -> Molecule:
        return Molecule(2 * self.atoms)


def subtract(a: int, b: int) -> int:
    return a - b


async def test_function_gets_args_and_kwargs(session: Session) -> None:
    [task] = await session.submit(ComputeTask(subtract, args=(10,), kwargs={"b": 3}))

    await task

    assert task.return_value == 7


async def test_lambda_runs(session: Session) -> None:
    [task] = await session.submit(ComputeTask(lambda x: x * x, args=(12,)))

    await task

    assert task.return_value == 144


async def test_closures_of_one_function_keep_their_own_variables(session: Session) -> None:
    def adder(n: int) -> Any:  # noqa: ANN401 - a function
        return lambda x: x + n

    tasks = await session.submit(ComputeTask(adder(n), args=(100,)) for n in range(20))
    await session.wait(tasks)

    assert [task.return_value for task in tasks] == [100 + n for n in range(20)]


async def test_a_function_for_every_task_runs_however_many_there_are(session: Session) -> None:
    functions = [functools.partial(operator.sub, n) for n in range(5_000)]  # workers remember fewer

    tasks = await session.submit(ComputeTask(function, args=(1,)) for function in functions)
    await session.wait()
    again = await session.submit(ComputeTask(function, args=(2,)) for function in functions[:100])
    await session.wait()

    assert [task.return_value for task in tasks] == [n - 1 for n in range(5_000)]
    assert [task.return_value for task in again] == [n - 2 for n in range(100)]


async def test_partial_runs(session: Session) -> None:
    [task] = await session.submit(ComputeTask(functools.partial(subtract, b=1), args=(5,)))

    await task

    assert task.return_value == 4


async def test_bound_method_of_a_class_in_the_test_module_runs(session: Session) -> None:
    [task] = await session.submit(ComputeTask(Molecule(21).doubled))

    await task

    assert isinstance(task.return_value, Molecule)
    assert task.return_value.atoms == 42


async def test_class_is_called_like_a_function(session: Session) -> None:
    [task] = await session.submit(ComputeTask(Molecule, args=(3,)))

    await task

    assert task.return_value.atoms == 3


async def test_numpy_arrays_go_in_and_come_out(session: Session) -> None:
    points = np.arange(300_000, dtype=np.float64).reshape(3, -1)
    [task] = await session.submit(ComputeTask(lambda array: array.T * 2, args=(points,)))

    await task

    np.testing.assert_array_equal(task.return_value, points.T * 2)


async def test_scalars_keep_their_type(session: Session) -> None:
    values = [None, True, 0, -(1 << 80), 1.5, float("inf"), 2j, "", "ü\0\ud800", b"", b"\xff" * 300_000]
    tasks = await session.submit(ComputeTask(lambda value: value, args=(value,)) for value in values)

    await session.wait(tasks)

    assert [(type(task.return_value), task.return_value) for task in tasks] == [(type(v), v) for v in values]


async def test_more_bytes_than_travel_at_once_arrive_whole(session: Session) -> None:
    blobs = [os.urandom(1 << 20) for _ in range(24)]

    tasks = await session.submit(ComputeTask(lambda blob: [blob[:8]], args=(blob,)) for blob in blobs)
    await session.wait(tasks)

    assert [task.return_value for task in tasks] == [[blob[:8]] for blob in blobs]


async def test_ten_thousand_tasks_run_and_are_delivered_exactly_once(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    tasks = await session.submit(ComputeTask(work.note, args=(ledger, number)) for number in range(10_000))

    delivered = [task.uid async for task in session.as_completed(tasks)]

    assert sorted(delivered) == sorted(task.uid for task in tasks)
    assert session.counts == {"DONE": 10_000}
    assert sorted(map(int, work.lines(ledger))) == list(range(10_000))


async def test_task_that_ends_at_once_is_never_lost(session: Session) -> None:
    values = []

    async with asyncio.timeout(60):
        for number in range(1_000):
            [task] = await session.submit(ComputeTask(abs, args=(-number,)))
            values.append((await task).return_value)
            [future] = await session.submit_tasks([ComputeTask(abs, args=(-number,))])
            values.append((await future).return_value)

    assert values == [number for number in range(1_000) for _ in range(2)]


async def test_task_that_has_ended_can_still_be_waited_for_in_every_way(session: Session) -> None:
    [task] = await session.submit(ComputeTask(abs, args=(-5,)))
    await session.wait()

    awaited = await task
    waited = await session.wait([task])
    arrived = [each async for each in session.as_completed([task])]

    assert (awaited, waited, arrived) == (task, True, [task])


async def test_function_finds_uid_attempt_and_run_folder_in_its_environment(session: Session) -> None:
    names = ("RHAPSODY_TASK_UID", "RHAPSODY_ATTEMPT", "RHAPSODY_RUN_DIR")
    named, plain, bulky = await session.submit(
        [
            ComputeTask(lambda: [os.environ[name] for name in names], uid="my-task"),
            ComputeTask(lambda: [os.environ[name] for name in names]),
            ComputeTask(lambda _: [os.environ[name] for name in names], args=([1, 2, 3],)),
        ]
    )
    await session.wait()

    assert named.return_value == ["my-task", "1", str(session.run_dir)]
    assert plain.return_value == [plain.uid, "1", str(session.run_dir)]
    assert bulky.return_value == [bulky.uid, "1", str(session.run_dir)]


async def test_second_attempt_finds_its_number_and_the_next_task_does_not(
    narrow_session: Session, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"

    def fail_once() -> str:
        attempt = os.environ["RHAPSODY_ATTEMPT"]
        work.note(ledger, attempt)
        if attempt == "1":
            raise ValueError("not yet")
        return attempt

    [task] = await narrow_session.submit(ComputeTask(fail_once, retry=2))
    await task
    [after] = await narrow_session.submit(ComputeTask(lambda: os.environ["RHAPSODY_ATTEMPT"]))
    await after

    assert (task.return_value, task.attempt, work.lines(ledger)) == ("2", 2, ["1", "2"])
    assert after.return_value == "1"


async def test_function_gets_env_and_cwd_and_the_next_one_does_not(narrow_session: Session, tmp_path: Path) -> None:
    def look() -> tuple[str | None, str]:
        return os.environ.get("FLAVOUR"), os.getcwd()  # noqa: PTH109 - a text travels as it is

    given, after = await narrow_session.submit(
        [ComputeTask(look, env={"FLAVOUR": "sour"}, cwd=tmp_path), ComputeTask(look)]
    )
    await narrow_session.wait()

    assert given.return_value == ("sour", str(tmp_path))
    assert after.return_value == (None, os.getcwd())  # noqa: PTH109
