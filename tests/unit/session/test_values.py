"""What flows along the edges of a campaign, on the built-in runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from rhapsody import Completed, ComputeTask, Retry, Session, SpecError, State, TaskCanceled, TaskError, TaskFailed


def echo(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:  # noqa: ANN401 - whatever is given
    return args, kwargs


def fail(text: str) -> None:
    raise ValueError(text)


def fail_until(attempt: int) -> str:
    now = int(os.environ["RHAPSODY_ATTEMPT"])
    if now < attempt:
        raise RuntimeError(f"attempt {now}")
    return f"attempt {now} of {os.environ['RHAPSODY_TASK_UID']}"


def text_of(error: object) -> tuple[str, str]:
    return type(error).__name__, str(error)


class TestValues:
    async def test_a_value_arrives_wherever_the_task_was_named(self, tmp_path: Path) -> None:
        one = ComputeTask(lambda: 1)
        two = ComputeTask(lambda: [2, 2])
        task = ComputeTask(
            echo, args=[one, [two, (one,)], {"deep": [{"deeper": one}], one: "key"}], kwargs={"name": {"two": two}}
        )
        task.args[2].pop(one)  # keys are left alone, and a task cannot travel
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([one, two, task])

            args, kwargs = (await task).value

        assert args == (1, [[2, 2], (1,)], {"deep": [{"deeper": one.value}]})
        assert kwargs == {"name": {"two": [2, 2]}}

    async def test_a_task_hidden_too_deep_fails_with_the_remedy(self, tmp_path: Path) -> None:
        one = ComputeTask(lambda: 1)
        task = ComputeTask(echo, args=[[[[[one]]]]])
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([one, task])

            with pytest.raises(TaskFailed, match="at most 3 levels deep"):
                await task

    async def test_executables_pass_and_take_values(self, tmp_path: Path) -> None:
        number = ComputeTask(lambda: 42)
        said = ComputeTask(executable="echo", arguments=["the number is", number], cwd=tmp_path)
        read = ComputeTask(echo, args=[said])
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([number, said, read])

            (completed,), _ = (await read).value

        assert completed == Completed(0, "the number is 42\n", "", str(tmp_path))
        assert type(completed) is Completed

    async def test_after_orders_and_passes_nothing(self, tmp_path: Path) -> None:
        first = ComputeTask(executable="touch", arguments=[tmp_path / "made"])
        second = ComputeTask(lambda path: Path(path).exists(), args=[str(tmp_path / "made")], after=[first])
        async with Session(cores=2, runs=tmp_path) as session:
            await session.submit([second, first])

        assert second.value is True


class TestFailures:
    async def test_the_tasks_own_exception_is_the_cause(self, tmp_path: Path) -> None:
        task = ComputeTask(fail, args=["no water"])
        heir = ComputeTask(echo, args=[task])
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([task, heir])

            with pytest.raises(TaskFailed, match="ValueError: no water") as caught:
                await task
            with pytest.raises(TaskFailed, match=rf"{heir.uid}: .*{task.uid}.*ValueError: no water"):
                await heir

        assert isinstance(caught.value.__cause__, ValueError)
        assert "in fail" in str(caught.value)

    async def test_a_task_that_runs_all_the_same_gets_the_error_as_value(self, tmp_path: Path) -> None:
        bad = ComputeTask(fail, args=["no water"], uid="well")
        report = ComputeTask(text_of, args=[bad], when_dependency_fails="run")
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([bad, report])

        kind, text = report.value
        assert kind == "TaskFailed"
        assert text.startswith("well: ValueError: no water")

    async def test_a_canceled_dependency_cancels_with_its_name(self, tmp_path: Path) -> None:
        slow = ComputeTask(executable="sleep", arguments=["60"], uid="slow")
        heir = ComputeTask(echo, args=[slow])
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit([slow, heir])
            await session.cancel(slow)

            with pytest.raises(TaskCanceled, match="slow, which it depends on, ended CANCELED"):
                await heir

    async def test_all_task_errors_are_one_family(self) -> None:
        assert issubclass(TaskFailed, TaskError)
        assert issubclass(TaskCanceled, TaskError)

    async def test_a_time_limit_fails_the_attempt_and_a_retry_may_follow(self, tmp_path: Path) -> None:
        task = ComputeTask(executable="sleep", arguments=["60"], timeout_s=0.1, retry=2)
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit(task)

            with pytest.raises(TaskFailed) as caught:
                await task

        assert caught.value.cause == "timeout"
        assert task.attempt == 2


class TestRetries:
    async def test_each_attempt_knows_its_number(self, tmp_path: Path) -> None:
        task = ComputeTask(fail_until, args=[3], retry=Retry(attempts=5, delay_s=0.001), uid="steady")
        async with Session(cores=1, runs=tmp_path) as session:
            await session.submit(task)

        assert task.value == "attempt 3 of steady"
        assert (task.state, task.attempt, task.exception) == (State.DONE, 3, None)

    async def test_only_failed_items_of_a_map_are_tried_again(self, tmp_path: Path) -> None:
        def calls_of(name: str) -> int:
            with Path(name).open("a") as file:
                file.write("x")
            size = Path(name).stat().st_size
            if name.endswith("odd") and size < 2:
                raise RuntimeError("not yet")
            return size

        names = [str(tmp_path / name) for name in ("even", "odd", "even2", "odd2.odd")]
        async with Session(cores=2, runs=tmp_path) as session:
            array = await session.map(calls_of, names, retry=2)
            await array

        assert array.value == [1, 2, 1, 2]


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"executable": "no-such-program"}, "'no-such-program' is not on PATH"),
            ({"executable": "./no/such"}, "'./no/such' is no executable file"),
            ({"executable": "true", "cwd": "/no/such/folder"}, "cwd='/no/such/folder' is no folder"),
        ],
    )
    async def test_an_executable_that_cannot_start_refuses_the_whole_list(
        self, tmp_path: Path, options: dict[str, Any], words: str
    ) -> None:
        fine = ComputeTask(echo)
        async with Session(cores=1, runs=tmp_path) as session:
            with pytest.raises(SpecError, match=words):
                await session.submit([fine, ComputeTask(**options), ComputeTask(echo)])

            assert session.tasks == []
            assert session.counts == {}
        assert fine.state is State.NEW

    @pytest.mark.parametrize("wrong", [5, None, 2.5])
    async def test_what_is_no_list_of_tasks_is_refused(self, tmp_path: Path, wrong: Any) -> None:  # noqa: ANN401
        session = Session(cores=1, runs=tmp_path)

        with pytest.raises(SpecError, match=r"submit\(\) takes a task or a list of tasks"):
            await session.submit(wrong)
