"""The scheduler: nodes that are lost while tasks wait for them or run on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.errors import BackendError, SpecError, TaskFailed, TaskUnknown
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy, Retry
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.task import TaskOptions
from rhapsody.scheduling.intake import SLICE
from tests.eventually import eventually
from tests.scripted import Launch, Rig, nodes_of, plain

if TYPE_CHECKING:
    from rhapsody.abc import Report

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, UNKNOWN = State.DONE, State.FAILED, State.UNKNOWN
SILENCE = "nothing was heard of it for 8 s"
WHOLE = Resources(cores_per_rank=2)
BOTH = Resources(ranks=4)


def lost(rig: Rig, launch: Launch) -> Report:
    """Return the report that nobody knows how an attempt ended, as backends make it."""
    failure = Failure(Cause.LOST, f"its node is lost: {SILENCE}")
    ended_ns = rig.backend.clock()
    return rig.backend.ended(launch, UNKNOWN)._replace(ended_ns=ended_ns, failure=failure)


def on(rig: Rig, node: int) -> list[Launch]:
    """Return the open attempts that have a slot on a node."""
    return [launch for launch in rig.backend.open.values() if node in launch.placement.nodes]


def lose(rig: Rig, *nodes: int) -> None:
    """Lose nodes as a backend tells it: first of the attempts on them, then of the nodes.

    What was launched there between the two is given back.
    """
    rig.backend.hear(*{launch.key: lost(rig, launch) for node in nodes for launch in on(rig, node)}.values())
    rig.scheduler.nodes_lost(nodes, SILENCE)
    rig.backend.hear(
        *{launch.key: rig.backend.given_back(launch) for node in nodes for launch in on(rig, node)}.values()
    )


def nodes_used(rig: Rig) -> set[int]:
    """Return the nodes of all open attempts."""
    return {node for launch in rig.backend.open.values() for node in launch.placement.nodes}


def uneven() -> Rig:
    """Return a rig with a node of one core, and two of two."""
    small, large = nodes_of(1).nodes[0], nodes_of(2).nodes[0]
    nodes = (small, *(large.model_copy(update={"name": name}) for name in ("n1", "n2")))
    return Rig(nodes_of(1).model_copy(update={"nodes": nodes}))


def array_of(count: int, resources: Resources = SERIAL, **options: Any) -> ArrayTask:  # noqa: ANN401 - TaskOptions
    return ArrayTask(abs, range(count), chunk=2, resources=resources, options=TaskOptions(**options))


class TestNotices:
    async def test_the_user_is_told_once_what_is_lost_and_what_is_left(self) -> None:
        rig = Rig(nodes_of(128, count=4))

        rig.scheduler.nodes_lost([3], SILENCE)
        rig.scheduler.nodes_lost([3], SILENCE)
        rig.scheduler.nodes_lost([0, 1, 3], "its agent left")

        assert rig.said == [
            f"n3 is lost ({SILENCE}); 3 nodes with 384 cores are left",
            "n0 and n1 are lost (its agent left); 1 node with 128 cores is left",
        ]


class TestTasksThatWait:
    async def test_what_fits_no_more_fails_and_names_the_loss(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        filling, big = [plain() for _ in range(4)], plain(resources=BOTH)
        await rig.submit(*filling, big)

        lose(rig, 1)

        with pytest.raises(
            TaskFailed, match=r"it fits no more since n1 is lost \(nothing was heard.*4 ranks"
        ) as caught:
            await big
        assert caught.value.cause == Cause.LAUNCH
        assert rig.sink.states_of(big) == [WAITING, READY, FAILED]

    async def test_what_waits_for_another_task_and_fits_no_more_fails_at_once_with_its_dependents(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        first = plain()
        big = plain(args=[first], resources=BOTH, uid="big")
        last = plain(args=[big])
        await rig.submit(first, big, last)
        lost_node = 1 - rig.backend.launch_of(first).placement.nodes[0]

        lose(rig, lost_node)

        assert (first.state, big.state, last.state) == (PLACED, FAILED, FAILED)
        with pytest.raises(TaskFailed, match=r"big.*fits no more"):
            await last

    async def test_what_still_fits_goes_on_with_the_nodes_that_are_left(self) -> None:
        rig = Rig(nodes_of(2, count=3))
        tasks = [plain() for _ in range(30)]
        await rig.submit(*tasks)

        lose(rig, 1)
        during = nodes_used(rig)
        rig.backend.finish_all()

        assert during == {0, 2}
        assert rig.counts == {"DONE": 28, "UNKNOWN": 2}
        assert rig.mapper.free_cores == rig.mapper.usable_cores == 4

    async def test_a_delayed_attempt_that_fits_no_more_fails(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(resources=BOTH, retry=Retry(attempts=2, delay_s=60))
        await rig.submit(task)
        rig.backend.fail(task)

        lose(rig, 0)

        assert task.state is FAILED
        assert rig.counts == {"FAILED": 1}

    async def test_a_task_that_is_given_back_and_fits_no_more_fails(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(resources=BOTH)
        await rig.submit(task)

        rig.scheduler.nodes_lost([0], SILENCE)
        before = task.state
        rig.backend.hear(rig.backend.given_back(rig.backend.launch_of(task)))

        assert before is PLACED
        with pytest.raises(TaskFailed, match="n0 is lost"):
            await task
        assert rig.mapper.free_cores == 2

    async def test_a_big_task_gets_its_turn_among_small_ones_as_soon_as_on_so_few_nodes(self) -> None:
        rig = Rig(nodes_of(2, count=60))
        await rig.submit(*(plain() for _ in range(120)))
        big = plain(resources=BOTH)
        await rig.submit(big)
        lose(rig, *range(58))

        for _ in range(50):
            rig.backend.done(rig.backend.running[0])
            if big.state is not READY:
                break
            await rig.submit(plain())

        assert big.attempt == 1
        assert set(rig.backend.launch_of(big).placement.nodes) == {58, 59}


class TestTasksThatRun:
    async def test_one_that_is_not_idempotent_ends_unknown_with_the_reason(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(retry=3)
        await rig.submit(task)

        lose(rig, *rig.backend.launch_of(task).placement.nodes)

        with pytest.raises(TaskUnknown, match=SILENCE):
            await task
        assert len(rig.backend.launches) == 1

    @pytest.mark.parametrize("order", ["reports first", "nodes first"])
    async def test_an_idempotent_one_runs_again_elsewhere(self, order: str) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(idempotent=True)
        await rig.submit(task)
        node = rig.backend.launch_of(task).placement.nodes[0]

        if order == "reports first":
            lose(rig, node)
        else:
            rig.scheduler.nodes_lost([node], SILENCE)
            rig.backend.hear(lost(rig, rig.backend.launch_of(task)))
        used = nodes_used(rig)
        rig.backend.done(task, value=5)

        assert used == {1 - node}
        assert (await task).value == 5
        assert task.attempt == 2
        assert rig.mapper.free_cores == 2

    async def test_a_retry_for_lost_causes_runs_again_elsewhere(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(resources=WHOLE, retry=Retry(attempts=2, causes=frozenset({Cause.LOST})))
        await rig.submit(task)
        node = rig.backend.launch_of(task).placement.nodes[0]

        lose(rig, node)

        assert nodes_used(rig) == {1 - node}

    async def test_an_idempotent_one_that_fits_no_more_fails(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        task = plain(resources=BOTH, idempotent=True)
        await rig.submit(task)

        lose(rig, 1)

        with pytest.raises(TaskFailed, match="n1 is lost"):
            await task
        assert rig.sink.states_of(task).count(UNKNOWN) == 1
        assert rig.mapper.free_cores == 2

    async def test_an_mpi_task_leaves_the_cores_of_the_living_node_to_others(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        wide, after = plain(resources=BOTH), plain(resources=WHOLE)
        await rig.submit(wide, after)

        lose(rig, 0)

        assert wide.state is UNKNOWN
        assert rig.backend.running == [after]
        assert nodes_used(rig) == {1}

    async def test_what_runs_on_other_nodes_is_left_alone(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        tasks = [plain(resources=WHOLE), plain(resources=WHOLE)]
        await rig.submit(*tasks)

        lose(rig, rig.backend.launch_of(tasks[0]).placement.nodes[0])
        rig.backend.done(tasks[1], value=1)

        assert (await tasks[1]).value == 1
        assert tasks[0].state is UNKNOWN

    async def test_a_lease_of_quick_tasks_on_a_lost_node_is_not_refilled(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        await rig.submit(*(plain() for _ in range(2_000)))
        for _ in range(4):
            rig.backend.hear(*(rig.backend.ended(launch) for launch in list(rig.backend.open.values())))

        rig.scheduler.nodes_lost([0], SILENCE)
        seen = len(rig.backend.launches)
        rig.backend.hear(*(rig.backend.given_back(launch) for launch in on(rig, 0)))
        launched = rig.backend.launches[seen:]
        rig.backend.finish_all()

        assert {node for launch in launched for node in launch.placement.nodes} <= {1}
        assert rig.counts == {"DONE": 2_000}
        assert rig.mapper.free_cores == 1


class TestArrays:
    async def test_lost_items_of_an_idempotent_array_run_again_elsewhere(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        array = array_of(8, idempotent=True)
        await rig.submit(array)

        lose(rig, 0)
        await eventually(lambda: rig.scheduler.counts[WAITING] == 0)
        used = nodes_used(rig)
        for _ in range(8):
            rig.backend.finish_all()
            if array.is_final:
                break

        assert used == {1}
        assert array.state is DONE
        assert rig.counts == {"DONE": 8}
        assert rig.mapper.free_cores == 1

    async def test_lost_items_of_an_array_that_is_not_idempotent_end_unknown_and_the_others_run(self) -> None:
        rig = Rig(nodes_of(1, count=2))
        array = array_of(8)
        await rig.submit(array)
        items = on(rig, 0)[0].items
        assert items is not None

        lose(rig, 0)
        rig.backend.finish_all()

        assert set(array.failures) == set(range(*items))
        assert {(failure.cause, failure.message) for failure in array.failures.values()} == {
            (Cause.LOST, f"its node is lost: {SILENCE}")
        }
        assert rig.counts == {"DONE": 6, "UNKNOWN": 2}

    async def test_items_that_fit_no_more_fail_once_what_runs_has_ended(self) -> None:
        rig = uneven()
        array = array_of(8, WHOLE)
        await rig.submit(array)

        lose(rig, 1, 2)

        with pytest.raises(TaskFailed, match="8 of 8 items failed"):
            await array
        assert {failure.cause for failure in array.failures.values()} == {Cause.LOST, Cause.LAUNCH}
        assert "n1 and n2 are lost" in array.failures[7].message
        assert rig.counts == {"FAILED": 4, "UNKNOWN": 4}

    async def test_an_array_that_waits_and_fits_no_more_fails_with_all_its_items(self) -> None:
        rig = uneven()
        first = plain()
        array = array_of(8, WHOLE, after=(first,))
        await rig.submit(first, array)

        lose(rig, 1, 2)

        assert array.state is FAILED
        assert rig.counts == {"PLACED": 1, "FAILED": 8}


class TestCompanions:
    async def test_a_task_waits_until_its_companion_is_placed_elsewhere(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        companion = plain(idempotent=True)
        await rig.submit(companion)
        node = rig.backend.launch_of(companion).placement.nodes[0]
        lose(rig, node)
        beside = plain(policy=Policy(colocate_with=companion))

        await rig.submit(beside)

        assert rig.backend.launch_of(beside).placement.nodes == (1 - node,)

    async def test_a_task_does_not_go_to_the_lost_node_of_a_companion_that_waits(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        companion = plain(retry=Retry(attempts=2, delay_s=60, causes=frozenset({Cause.LOST})))
        await rig.submit(companion)
        lose(rig, *rig.backend.launch_of(companion).placement.nodes)
        beside = plain(policy=Policy(colocate_with=companion))

        await rig.submit(beside)
        before = beside.state
        rig.scheduler.cancel([companion])

        assert before is READY
        assert beside.state is PLACED


class TestSubmitting:
    async def test_what_fits_no_more_is_refused(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        await rig.submit(plain(resources=BOTH))  # so that it is known to fit
        lose(rig, 1)

        with pytest.raises(SpecError, match=r"asked for 4 ranks.*; n1 is lost"):
            await rig.submit(plain(resources=BOTH))

    async def test_what_fits_no_more_when_half_of_a_long_list_is_accepted_fails(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        tasks = [plain(resources=BOTH) for _ in range(SLICE + 1)]

        async with asyncio.TaskGroup() as group:
            group.create_task(rig.submit(*tasks))
            for _ in range(100):
                await asyncio.sleep(0)  # so long as it takes until one part is accepted
                if rig.scheduler.tasks:
                    break
            lose(rig, 0)
            before = tasks[-1].state

        assert before is State.NEW
        assert rig.counts == {"UNKNOWN": 1, "FAILED": SLICE}


class TestTheLastNode:
    async def test_the_runtime_is_gone_when_no_node_is_left(self) -> None:
        rig = Rig(nodes_of(2, count=2))
        running, waiting = [plain() for _ in range(4)], plain()
        await rig.submit(*running, waiting)

        lose(rig, 1)
        lose(rig, 0)

        assert all(task.is_final for task in [*running, waiting])
        assert rig.said[-1] == f"backend scripted is gone: all its nodes are lost ({SILENCE})"
        assert len(rig.said) == 2
        with pytest.raises(BackendError, match="all its nodes are lost"):
            await rig.submit(plain())
        assert not rig.scheduler.tasks
