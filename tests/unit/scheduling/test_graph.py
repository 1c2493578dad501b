"""Dependencies: what is found among arguments, who waits for whom, circles."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.task import ComputeTask, Task
from rhapsody.scheduling.graph import dependencies_of, link, require_acyclic

if TYPE_CHECKING:
    from collections.abc import Sequence


def plain(**options: object) -> ComputeTask:
    return ComputeTask(len, **options)  # type: ignore[arg-type]


class TestFinding:
    def test_tasks_are_found_wherever_arguments_can_hold_them(self) -> None:
        one, two, three, four = (plain() for _ in range(4))
        task = plain(args=[one, [two, {"key": (three,)}]], kwargs={"name": four})

        found = dependencies_of(task)

        assert found == [one, two, three, four]

    def test_arguments_of_an_executable_and_after_count_too(self) -> None:
        one, two = plain(), plain()
        task = ComputeTask(executable="cat", arguments=["-n", one], after=[two])

        found = dependencies_of(task)

        assert found == [one, two]

    def test_a_task_that_is_named_often_is_found_once(self) -> None:
        one = plain()
        task = plain(args=[one, [one]], kwargs={"again": one}, after=[one])

        found = dependencies_of(task)

        assert found == [one]

    def test_deeper_than_three_levels_nothing_is_looked_for(self) -> None:
        one = plain()

        found = dependencies_of(plain(args=[[[[[one]]]]]))

        assert found == []

    def test_keys_of_dicts_and_sets_hold_no_dependencies(self) -> None:
        one = plain()

        found = dependencies_of(plain(args=[{one: 1}, {one}]))

        assert found == []

    def test_an_array_task_depends_through_after_only(self) -> None:
        one = plain()
        array = ArrayTask(len, ["a", "b"], options=plain(after=[one]).options)

        found = dependencies_of(array)

        assert found == [one]


class TestLinking:
    def test_a_task_waits_for_those_that_have_not_ended(self) -> None:
        ended, there, other = plain(), plain(), plain()
        ended.state = State.DONE
        task = plain()

        waits = link(task, [ended, there, other])

        assert waits
        assert task.links.waiting == 2
        assert there.links.dependents == [task]

    def test_a_task_whose_dependencies_have_all_ended_does_not_wait(self) -> None:
        ended = plain()
        ended.state = State.DONE
        task = plain()

        waits = link(task, [ended])

        assert not waits


class TestCircles:
    def test_a_diamond_is_none(self) -> None:
        top, left, right, bottom = (plain() for _ in range(4))

        require_acyclic({left: [top], right: [top], bottom: [left, right]})

    def test_only_the_circle_is_named_not_the_way_to_it(self) -> None:
        entry, one, two = plain(uid="entry"), plain(uid="one"), plain(uid="two")

        with pytest.raises(SpecError) as caught:
            require_acyclic({entry: [one], one: [two], two: [one]})

        assert "one → two → one" in str(caught.value)
        assert "entry" not in str(caught.value)

    def test_a_long_chain_and_a_wide_layer_take_little_time(self) -> None:
        chain = [plain() for _ in range(50_000)]
        edges: dict[Task, Sequence[Task]] = {later: [earlier] for earlier, later in pairwise(chain)}
        layer = [plain() for _ in range(300)]
        edges |= {plain(): layer for _ in range(300)}

        began = time.process_time()
        require_acyclic(edges)
        spent_s = time.process_time() - began

        assert spent_s < 3
