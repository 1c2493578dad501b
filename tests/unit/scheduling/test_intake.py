"""What submission refuses: one clear error, and nothing of the list was accepted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.policy import Policy
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask, Task, TaskOptions
from tests.scripted import Rig, nodes_of, nothing, plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.model.outcome import Failure


async def refusal_of(rig: Rig, *tasks: Task) -> str:
    """Submit tasks that must be refused; check that nothing is left of them and return the error's text."""
    before = (rig.scheduler.tasks, dict(rig.scheduler.counts), len(rig.sink.events), len(rig.backend.launches))
    states = [task.state for task in tasks if isinstance(task, Task)]

    with pytest.raises(SpecError) as caught:
        await rig.submit(*tasks)

    rig.sink.commit()
    after = (rig.scheduler.tasks, dict(rig.scheduler.counts), len(rig.sink.events), len(rig.backend.launches))
    assert after == before
    assert [task.state for task in tasks if isinstance(task, Task)] == states
    return str(caught.value)


class TestUids:
    async def test_a_uid_that_comes_twice_in_a_list_is_refused(self) -> None:
        rig = Rig()

        text = await refusal_of(rig, plain(uid="a"), plain(), plain(uid="a"))

        assert "uid 'a'" in text

    async def test_a_uid_of_a_task_that_has_ended_is_refused(self) -> None:
        rig = Rig()
        first = plain(uid="a")
        await rig.submit(first)
        rig.backend.done(first)

        text = await refusal_of(rig, plain(uid="a"))

        assert "uid 'a' was used before" in text

    async def test_a_uid_of_a_refused_list_is_free_again(self) -> None:
        rig = Rig()
        await refusal_of(rig, plain(uid="a"), plain(resources=Resources(cores_per_rank=99)))
        second = plain(uid="a")

        await rig.submit(second)

        assert rig.scheduler.tasks == [second]


class TestRepetition:
    async def test_a_task_that_is_twice_in_a_list_is_refused(self) -> None:
        task = plain(uid="a-task")

        text = await refusal_of(Rig(), plain(), task, plain(), task)

        assert "a-task" in text

    async def test_a_nameless_task_that_is_twice_in_a_list_is_refused(self) -> None:
        task = plain()

        text = await refusal_of(Rig(), task, plain(), task)

        assert f"task {task.uid} is in the list twice" in text

    @pytest.mark.parametrize("end", [False, True])
    async def test_a_task_that_was_submitted_before_is_refused(self, end: bool) -> None:  # noqa: FBT001 - a parameter
        rig = Rig()
        task = plain()
        await rig.submit(task)
        if end:
            rig.backend.done(task)

        text = await refusal_of(rig, plain(), task)

        assert f"task {task.uid} was submitted before; make a new ComputeTask" in text

    @pytest.mark.parametrize("thing", [5, "task", None, nothing])
    async def test_what_is_no_task_is_refused(self, thing: Any) -> None:  # noqa: ANN401 - anything
        text = await refusal_of(Rig(), plain(), thing)

        assert f"takes tasks, not {thing!r}" in text

    async def test_a_class_of_tasks_that_nobody_can_run_is_refused(self) -> None:
        class Special(ComputeTask):
            """One of the user's own."""

        text = await refusal_of(Rig(), Special(nothing))

        assert "takes tasks, not <Special" in text


class TestPolicies:
    @pytest.mark.parametrize(
        ("policy", "words"),
        [
            (Policy(backend="dragoon"), ["unknown backend 'dragoon'", "valid: scripted"]),
            (Policy(placement="pak"), ["unknown placement policy 'pak'", "valid: pack, spread"]),
            (Policy(placement=5), ["placement=5", "choose()"]),  # type: ignore[arg-type]
            (Policy(retry="often"), ["retry='often'", "RetryPolicy"]),  # type: ignore[arg-type]
            (Policy(retry=0), ["retry=0", "at least 1"]),
            (Policy(retry=True), ["retry=True"]),
            (Policy(priority="high"), ["priority='high'", "whole number"]),  # type: ignore[arg-type]
            (Policy(colocate_with="db"), ["colocate_with='db'", "task"]),  # type: ignore[arg-type]
            (Policy(routing="random"), ["routing", "the session's"]),
        ],
    )
    async def test_a_wrong_policy_in_the_middle_of_a_list_refuses_the_list(
        self, policy: Policy, words: list[str]
    ) -> None:
        text = await refusal_of(Rig(), plain(), plain(uid="odd", policy=policy), plain())

        assert "task odd" in text
        assert [word for word in words if word not in text] == []

    async def test_a_wrong_policy_of_the_session_is_refused_at_once(self) -> None:
        with pytest.raises(SpecError, match=r"session's policy: unknown placement policy 'x'; valid: pack, spread"):
            Rig(policy=Policy(placement="x"))

    async def test_a_policy_object_that_cannot_be_hashed_is_refused_with_the_remedy(self) -> None:
        @dataclass
        class Mine:
            limit: int = 2

            def delay_before_next(self, attempt: int, failure: Failure) -> float | None:  # noqa: ARG002 - the contract has it
                return None

        text = await refusal_of(Rig(), plain(policy=Policy(retry=Mine())))

        assert "frozen=True" in text

    async def test_a_companion_that_was_never_submitted_is_refused(self) -> None:
        text = await refusal_of(Rig(), plain(policy=Policy(colocate_with=plain(uid="database"))))

        assert "colocate_with=database, which was not submitted" in text

    async def test_a_companion_may_come_in_the_same_list(self) -> None:
        rig = Rig()
        companion = plain()
        beside = plain(policy=Policy(colocate_with=companion))

        await rig.submit(beside, companion)

        assert rig.backend.running == [companion, beside]


class TestRequests:
    @pytest.mark.parametrize(
        ("resources", "words"),
        [
            (Resources(cores_per_rank=9), ["9 cores per rank", "4 usable cores", "n0"]),
            (Resources(ranks=9), ["9 ranks", "8 of them"]),
            (Resources(gpus_per_rank=2), ["2 GPUs per rank", "no node has any"]),
            (Resources(memory_per_rank="1GiB"), ["1.0GiB", "memory of no node is known"]),
        ],
    )
    async def test_what_can_never_fit_is_refused_with_what_there_is(
        self, resources: Resources, words: list[str]
    ) -> None:
        rig = Rig(nodes_of(4, count=2))

        text = await refusal_of(rig, plain(), plain(uid="huge", resources=resources))

        assert [word for word in ["task huge", "asked for", *words] if word not in text] == []

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"resources": 4}, ["resources=4", "Resources("]),
            ({"policy": {"retry": 3}}, ["Policy("]),
        ],
    )
    async def test_a_value_of_the_wrong_type_is_refused(self, options: dict[str, Any], words: list[str]) -> None:
        text = await refusal_of(Rig(), plain(), plain(uid="odd", **options))

        assert [word for word in ["task odd", *words] if word not in text] == []

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"priority": "high"}, "priority='high' must be a whole number"),
            ({"priority": 1.5}, "priority=1.5 must"),
            ({"priority": 1 << 70}, "priority=.* between"),
            ({"retry": "3"}, "retry='3' is no number of attempts and no RetryPolicy"),
            ({"args": "abc"}, r"args='abc' is no list or tuple; for a single one write args=\['abc'\]"),
            ({"args": 5}, "args=5 is no list"),
            ({"kwargs": [1]}, r"kwargs=\[1\] is no dict"),
            ({"env": 5}, "env=5 is no dict"),
            ({"timeout_s": float("nan")}, "timeout_s=nan must be a positive number"),
            ({"after": 5}, "after=5 is no list"),
        ],
    )
    def test_a_value_of_the_wrong_type_is_refused_where_the_task_is_made(
        self, options: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(SpecError, match=words):
            plain(uid="odd", **options)

    async def test_what_the_runtime_can_never_run_is_refused(self) -> None:
        rig = Rig()
        rig.backend.refusal = SpecError("task x: 'gmx' is not on PATH")

        text = await refusal_of(rig, plain(), ComputeTask(executable="gmx", uid="x"))

        assert text == "task x: 'gmx' is not on PATH"


class TestDependencies:
    async def test_a_dependency_that_was_never_submitted_is_refused(self) -> None:
        lost = plain(uid="lost")

        text = await refusal_of(Rig(), plain(), plain(uid="heir", args=[lost]))

        assert "task heir depends on lost, which was not submitted" in text

    async def test_a_dependency_of_another_session_is_refused(self) -> None:
        foreign = plain(uid="foreign")
        other = Rig()
        await other.submit(foreign)

        text = await refusal_of(Rig(), plain(after=[foreign]))

        assert "foreign, which runs in another session" in text

    async def test_a_value_from_another_session_may_be_used_once_it_is_there(self) -> None:
        foreign = plain()
        other = Rig()
        await other.submit(foreign)
        other.backend.done(foreign)
        rig, heir = Rig(), plain(args=[foreign])

        await rig.submit(heir)

        assert rig.backend.running == [heir]

    async def test_a_circle_is_refused_and_named(self) -> None:
        late: list[Task] = []
        first = plain(uid="first", args=[late])
        second = plain(uid="second", args=[first])
        third = plain(uid="third", after=[second])
        late.append(third)

        text = await refusal_of(Rig(), plain(), first, second, third)

        assert "first → third → second → first" in text

    async def test_a_task_that_waits_for_itself_is_refused(self) -> None:
        late: list[Task] = []
        task = plain(uid="me", args=[late])
        late.append(task)

        text = await refusal_of(Rig(), task)

        assert "me → me" in text


class TestArrays:
    @pytest.mark.parametrize("wrap", [list, tuple])
    async def test_a_map_over_tasks_is_refused(self, wrap: Callable[[list[Any]], Any]) -> None:
        text = await refusal_of(Rig(), ArrayTask(len, wrap([1, plain()])))

        assert "map over tasks" in text
        assert "one ComputeTask per task" in text

    @pytest.mark.parametrize(
        ("wrong", "word"), [({"retry": -1}, "retry=-1"), ({"retry": "x"}, "retry='x'"), ({"after": (5,)}, "after=5")]
    )
    def test_wrong_options_of_a_map_are_refused_where_they_are_made(self, wrong: dict[str, Any], word: str) -> None:
        with pytest.raises(SpecError, match=word):
            TaskOptions(**wrong)


class TestLargeLists:
    async def test_one_wrong_task_at_the_end_refuses_ten_thousand(self) -> None:
        tasks = [*(plain() for _ in range(10_000)), plain(uid="odd", policy=Policy(backend="nope"))]

        text = await refusal_of(Rig(), *tasks)

        assert "task odd" in text
        assert {task.state for task in tasks} == {State.NEW}
