"""Replicas of the real vLLM that are killed while they have requests, and one that leaves in good order."""

from __future__ import annotations

import asyncio
from asyncio import TaskGroup
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.eventually import eventually
from tests.vllm.setting import require_own_answer

if TYPE_CHECKING:
    from openai.types import Completion

    from tests.vllm.serving import Serving
    from tests.vllm.setting import Setting

KILLS = 5
PROMPTS = 100
AT_ONCE = 24
TOKENS = 32
RESTART_S = 150.0
LONG = 8


@pytest.mark.timeout(480)
async def test_each_prompt_is_answered_once_while_replicas_are_killed_under_load(at: Setting) -> None:
    random = Random(2026)  # noqa: S311 - it picks moments
    answers: dict[str, Completion] = {}
    before = {outcome: at.of_gateway(_outcome(outcome)) for outcome in ("answered", "failed", "refused")}

    for number in range(KILLS):
        victim = at.serving.ready()[number % 2]
        prompts = [f"kill {number}, prompt {place}, nonce {random.getrandbits(64):x}" for place in range(PROMPTS)]
        moment = len(answers) + random.randrange(PROMPTS // 2)
        async with TaskGroup() as group:
            group.create_task(kill(at, victim, answers, moment, engine_only=number % 2 == 1))
            for first in range(AT_ONCE):
                group.create_task(answer_all(at, prompts[first::AT_ONCE], answers))
        await eventually(
            lambda: at.serving.restarts() > number and len(at.serving.ready()) == 2,  # noqa: B023 - asked in this round
            within_s=RESTART_S,
            what="the replica is started again, and ready",
        )

    assert len(answers) == KILLS * PROMPTS
    assert at.of_gateway(_outcome("answered")) - before["answered"] == KILLS * PROMPTS
    assert at.of_gateway(_outcome("failed")) == before["failed"]
    assert at.of_gateway(_outcome("refused")) == before["refused"]
    assert at.of_gateway("rhapsody_gateway_in_flight") == 0
    assert len({answer.id for answer in answers.values()}) == KILLS * PROMPTS
    tried_again = [answer for answer in answers.values() if not answer.id.endswith("-1")]
    assert len(tried_again) >= KILLS  # each kill hit requests that were under way
    for prompt, answer in answers.items():
        require_own_answer(answer, prompt, TOKENS)


async def test_what_a_replica_has_is_answered_before_it_leaves_and_the_run_ends_well(
    serving: Serving, at: Setting
) -> None:
    async with TaskGroup() as group:
        long = [group.create_task(at.complete(f"a long one, {number}", 800)) for number in range(LONG)]
        await eventually(lambda: at.total("vllm:num_requests_running") == LONG, within_s=60)
        code = group.create_task(asyncio.to_thread(serving.end))
        for task in long:
            await asyncio.wait([task])  # the run may end as soon as the replica has answered

    answered = [task.result() for task in long]
    for number, answer in enumerate(answered):
        require_own_answer(answer, f"a long one, {number}", 800)
    assert all(answer.id.endswith("-1") for answer in answered)  # by the first attempt
    assert code.result() == 0
    assert "scaled 1" in serving.started.said


async def answer_all(at: Setting, prompts: list[str], answers: dict[str, Completion]) -> None:
    """Ask one prompt after the other."""
    for prompt in prompts:
        answer = await at.complete(prompt, TOKENS)
        assert prompt not in answers
        answers[prompt] = answer


async def kill(at: Setting, victim: str, answers: dict[str, Completion], moment: int, *, engine_only: bool) -> None:
    """Kill a replica as soon as so many prompts are answered and it has some; the session starts it again."""
    await eventually(
        lambda: len(answers) >= moment and at.metric(victim, "vllm:num_requests_running") >= 4, within_s=60
    )
    at.serving.kill(victim, engine_only=engine_only)


def _outcome(outcome: str) -> str:
    return f'rhapsody_gateway_requests_total{{model="tiny",outcome="{outcome}"'
