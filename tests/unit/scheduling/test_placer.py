"""From ready to launched: policies, priorities, companions, leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import TaskFailed
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from rhapsody.model.policy import Policy
from rhapsody.model.resources import Resources
from rhapsody.scheduling import queue as queue_module
from tests.scripted import Rig, nodes_of, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import FreeNodes

BIG = Resources(cores_per_rank=2)


class Chooser:
    """A user's own policy that answers what it was given."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.asked = 0

    def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:  # noqa: ARG002 - the contract has it
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


class TestOwnPolicies:
    async def test_a_users_policy_decides_the_node(self) -> None:
        rig = Rig(nodes_of(2, count=3))
        task = plain(policy=Policy(placement=Chooser([(2, 1)])))

        await rig.submit(task)

        assert rig.backend.launch_of(task).placement.nodes == (2,)

    @pytest.mark.parametrize("answer", [[(7, 1)], [(0, 5)], [(0, 0)], "n0", ValueError("boom"), 5])
    async def test_a_wrong_choice_fails_that_task_alone(self, answer: object) -> None:
        rig = Rig()
        wrong = [plain(policy=Policy(placement=Chooser(answer))) for _ in range(3)]
        heir = plain(args=[wrong[0]])
        fine = plain()

        await rig.submit(*wrong, heir, fine)
        rig.backend.done(fine)

        assert [task.state for task in (*wrong, heir, fine)] == [*[State.FAILED] * 4, State.DONE]
        with pytest.raises(TaskFailed, match="could not be placed") as caught:
            await wrong[-1]
        assert caught.value.cause == Cause.LAUNCH
        assert rig.is_all_free

    async def test_tasks_that_share_a_wrong_policy_all_fail_at_once_and_so_does_what_depends_on_them(self) -> None:
        rig = Rig()
        policy = Policy(placement=Chooser(ValueError("boom")))
        tasks = [plain(policy=policy) for _ in range(3)]
        heir = plain(args=[tasks[0]])

        await rig.submit(*tasks, heir)

        assert [task.state for task in (*tasks, heir)] == [State.FAILED] * 4

    async def test_a_policy_that_does_not_want_to_place_yet_is_asked_again(self) -> None:
        rig = Rig()
        chooser = Chooser(None)
        task, other = plain(policy=Policy(placement=chooser)), plain()
        await rig.submit(task, other)

        chooser.answer = [(0, 1)]
        rig.backend.done(other)

        assert rig.backend.running == [task]


class TestFieldByField:
    async def test_a_task_overrides_what_it_names_and_keeps_the_rest(self) -> None:
        chooser = Chooser([(1, 1)])
        rig = Rig(nodes_of(1, count=2), policy=Policy(placement=chooser, retry=2))
        task = plain(policy=Policy(priority=5))

        await rig.submit(task)
        first = rig.backend.launch_of(task).placement.nodes
        rig.backend.fail(task)

        assert first == (1,)
        assert rig.backend.running == [task]
        assert task.attempt == 2


class TestPriorities:
    async def test_on_one_core_tasks_run_by_priority_then_in_order(self) -> None:
        rig = Rig(nodes_of(1))
        running = plain()
        await rig.submit(running)
        low, first, second = plain(priority=-1), plain(), plain()
        high, higher = plain(priority=2), plain(priority=1, policy=Policy(priority=2))
        await rig.submit(low, first, second, high, higher)

        rig.backend.finish_all()

        assert [launch.task for launch in rig.backend.launches] == [running, higher, high, first, second, low]


class TestCompanions:
    async def test_a_task_is_placed_on_the_nodes_of_its_companion(self) -> None:
        rig = Rig(nodes_of(3, count=3), policy=Policy(placement="spread"))
        fillers, companion = [plain(), plain()], plain()
        await rig.submit(*fillers, companion)
        beside = [plain(policy=Policy(colocate_with=companion)) for _ in range(2)]

        await rig.submit(*beside)

        nodes = rig.backend.launch_of(companion).placement.nodes
        assert [rig.backend.launch_of(task).placement.nodes for task in beside] == [nodes, nodes]

    async def test_a_task_waits_for_room_on_those_nodes_although_others_are_free(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        companion = plain()
        await rig.submit(companion)
        beside = plain(policy=Policy(colocate_with=companion))

        await rig.submit(beside)

        assert beside.state is State.READY
        assert rig.mapper.free_cores == 1

    async def test_an_urgent_task_joins_a_companion_that_is_placed_after_it(self) -> None:
        rig = Rig(nodes_of(2))
        companion = plain()
        beside = plain(priority=9, policy=Policy(colocate_with=companion))

        await rig.submit(beside, companion)

        assert rig.backend.running == [companion, beside]

    async def test_many_others_pass_while_the_companion_itself_has_to_wait(self) -> None:
        rig = Rig(nodes_of(1))
        crowd = [plain() for _ in range(100)]
        companion = plain(after=crowd)
        beside = plain(priority=1, policy=Policy(colocate_with=companion))
        await rig.submit(beside, *crowd, companion)

        rig.backend.finish_all()

        assert {task.state for task in (*crowd, companion, beside)} == {State.DONE}

    async def test_a_companion_that_has_ended_binds_nobody(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        companion = plain()
        await rig.submit(companion)
        rig.backend.done(companion)
        beside = plain(policy=Policy(colocate_with=companion))

        await rig.submit(beside)

        assert rig.backend.running == [beside]

    async def test_a_companion_of_the_whole_session_does_not_wait_for_itself(self) -> None:
        companion = plain()
        rig = Rig(policy=Policy(colocate_with=companion))

        await rig.submit(companion)

        assert rig.backend.running == [companion]


class TestHoles:
    async def test_cpu_tasks_go_on_while_others_wait_for_a_gpu(self) -> None:
        rig = Rig(nodes_of(2, gpus=1))
        on_gpu = Resources(gpus_per_rank=1)
        await rig.submit(plain(resources=on_gpu), plain(resources=on_gpu))
        crowd = [plain() for _ in range(100)]

        await rig.submit(*crowd)
        for task in crowd:
            rig.backend.done(task)

        assert {task.state for task in crowd} == {State.DONE}

    async def test_tasks_with_one_gpu_do_not_starve_one_that_needs_two(self) -> None:
        rig = Rig(nodes_of(8, gpus=2))
        small = Resources(gpus_per_rank=1)
        both = plain(resources=Resources(gpus_per_rank=2))
        await rig.submit(plain(resources=small), plain(resources=small), both)

        for _ in range(200):
            rig.backend.done(rig.backend.running[0])
            if both.state is not State.READY:
                break
            await rig.submit(plain(resources=small))

        assert both.attempt == 1


class TestLeases:
    async def test_quick_tasks_share_a_lease_and_all_cores_come_back(self) -> None:
        rig = Rig(nodes_of(2))
        tasks = [plain() for _ in range(200)]

        await rig.submit(*tasks)
        rig.backend.finish_all()

        placements = {id(launch.placement) for launch in rig.backend.launches}
        assert len(placements) < len(tasks)
        assert rig.is_all_free
        assert rig.backend.violations == []

    async def test_a_lease_that_runs_dry_goes_to_whoever_is_more_urgent(self) -> None:
        rig = Rig(nodes_of(1))
        tasks = [plain() for _ in range(3)]
        await rig.submit(*tasks)
        urgent = plain(priority=1, resources=Resources(memory_per_rank=0, ranks_per_node=1))
        await rig.submit(urgent)

        rig.backend.done(tasks[0])

        assert rig.backend.running == [urgent]

    async def test_lines_of_many_kinds_do_not_pile_up(self) -> None:
        rig = Rig(nodes_of(1))
        for priority in range(2 * queue_module.LINES_KEPT):
            await rig.submit(plain(priority=priority))
            rig.backend.finish_all()

        assert len(rig.scheduler._placer._queue._lines) <= queue_module.LINES_KEPT + 1
