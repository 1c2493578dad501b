"""Policies and priorities of a session, on the built-in runtime."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import ComputeTask, Policy, Resources, Session, State, TaskFailed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.abc import FreeNodes


def stamp(*_: Any) -> int:  # noqa: ANN401 - whatever it waits for
    return time.monotonic_ns()


class FirstNode:
    """A user's own placement policy: always the first node, if it can take all."""

    def __init__(self) -> None:
        self.asked = 0

    def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:
        self.asked += 1
        return [(0, request.ranks)] if free.ranks_that_fit(0, request) >= request.ranks else None


class NoSuchNode:
    """A user's own placement policy that is wrong."""

    def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:  # noqa: ARG002 - the contract has it
        return [(99, request.ranks)]


async def test_a_users_placement_policy_is_asked_and_followed(tmp_path: Path) -> None:
    policy = FirstNode()
    tasks = [ComputeTask(stamp) for _ in range(20)]

    async with Session(cores=2, runs=tmp_path, policy=Policy(placement=policy)) as session:
        await session.submit(tasks)

    assert {task.state for task in tasks} == {State.DONE}
    assert policy.asked > 0


async def test_a_wrong_placement_policy_fails_its_task_alone(tmp_path: Path) -> None:
    wrong = ComputeTask(stamp, policy=Policy(placement=NoSuchNode()))
    fine = [ComputeTask(stamp) for _ in range(3)]

    async with Session(cores=1, runs=tmp_path) as session:
        await session.submit([fine[0], wrong, *fine[1:]])
        await session.wait()

    assert [task.state for task in fine] == [State.DONE] * 3
    with pytest.raises(TaskFailed, match="could not be placed"):
        await wrong


async def test_on_one_core_priorities_decide_the_order(tmp_path: Path) -> None:
    gate = ComputeTask(stamp)
    tasks = [ComputeTask(stamp, args=[gate], priority=priority) for priority in (0, 2, 1, -1)]

    async with Session(cores=1, runs=tmp_path) as session:
        await session.submit([*tasks, gate])

    assert [task.priority for task in sorted(tasks, key=lambda task: task.value)] == [2, 1, 0, -1]


async def test_a_task_for_all_cores_gets_its_turn_amid_a_stream_of_small_ones(tmp_path: Path) -> None:
    async with Session(cores=2, runs=tmp_path) as session:
        big = ComputeTask(stamp, resources=Resources(cores_per_rank=2))
        small = [ComputeTask(stamp) for _ in range(4)]
        await session.submit([*small, big])

        passed = 0
        while not big.is_final and passed < 5_000:
            following = [ComputeTask(stamp) for _ in small]
            await session.submit(following)
            await session.wait(small)
            small = following
            passed += len(small)
        stream_at_end = big.is_final

    assert stream_at_end
    assert big.state is State.DONE
