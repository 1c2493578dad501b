"""AI workers over every backend: a loaded model beside compute workers, on slots of its own, asked by AI tasks."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from rhapsody import AITask, ComputeTask, Policy, Restart, ServiceTask, TaskFailed
from rhapsody.errors import SpecError
from tests.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody import Session
    from rhapsody.inference.worker_model import Generated, Prompt
    from tests.contract.conftest import NewSession


class Echo:
    """A model that says who it is, which CPUs it may use, and the prompt."""

    def __init__(self, word: str) -> None:
        self._word = word

    def generate(self, batch: Sequence[Prompt]) -> Sequence[Generated]:
        from rhapsody.inference.worker_model import Generated  # noqa: PLC0415 - where the model runs

        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        for prompt in batch:
            if "refuse" in prompt.text:
                raise SpecError("this prompt is not to my taste")
        return [Generated(f"{self._word} {os.getpid()} {cpus} {prompt.text}") for prompt in batch]


def load(word: str = "echo") -> Echo:
    """Return the model, as a loader does."""
    return Echo(word)


def workers(**options: object) -> ServiceTask:
    return ServiceTask.ai_worker("echo-model", load, restart=Restart(delay_s=0), **options)


async def test_prompts_are_answered_beside_functions_and_each_by_its_own(session: Session) -> None:
    service = await session.start(workers(loader_options={"word": "hello"}))
    asked = [AITask(f"nonce-{number}", service=service) for number in range(50)]
    functions = [ComputeTask(os.getpid) for _ in range(20)]
    later = ComputeTask(str.upper, args=(asked[0],))
    await session.submit([*asked, *functions, later])

    await session.wait()

    assert [task.response.split()[-1] for task in asked] == [f"nonce-{number}" for number in range(50)]
    assert {task.response.split()[0] for task in asked} == {"hello"}
    assert later.return_value == asked[0].response.upper()
    assert session.counts == {"DONE": 71}


async def test_workers_are_bound_to_cores_of_their_own(new_session: NewSession, two_cpus: None) -> None:
    async with new_session(cores=2, policy=Policy(routing="round_robin")) as session:
        service = await (await session.start(workers(replicas=2))).ready(timeout_s=60)

        answers = [AITask("where", service=service) for _ in range(8)]
        await session.submit(answers)
        await session.wait()

    said = {tuple(task.response.split()[1:3]) for task in answers}
    assert len(said) == 2
    assert len({cpus for _, cpus in said}) == 2
    assert all("," not in cpus for _, cpus in said)


async def test_refusal_of_the_model_fails_the_task_with_the_models_words(session: Session) -> None:
    service = await session.start(workers())
    good, bad = AITask("be kind", service=service), AITask("refuse this", service=service)
    await session.submit([good, bad])

    with pytest.raises(TaskFailed, match="this prompt is not to my taste"):
        await bad
    assert (await good).response.endswith("be kind")
    assert bad.response is None


async def test_worker_that_is_killed_is_started_again_and_nothing_is_lost(session: Session) -> None:
    service = await (await session.start(workers())).ready(timeout_s=60)
    first = AITask("who", service=service)
    await session.submit(first)
    await first

    os.kill(int(first.response.split()[1]), signal.SIGKILL)
    asked = [AITask(f"nonce-{number}", service=service) for number in range(20)]
    await session.submit(asked)
    await session.wait()
    await eventually(lambda: service.state == "READY", within_s=30)

    assert [task.response.split()[-1] for task in asked if task.response] == [f"nonce-{number}" for number in range(20)]
    assert service.status[0].restarts == 1
