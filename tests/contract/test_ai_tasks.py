"""Requests to models beside the tasks of every backend: values flow both ways, and they take no slot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody import AITask, ComputeTask, Session, SpecError, State, TaskFailed
from rhapsody.inference.engine_http import serving
from rhapsody.inference.engine_settings import StandInSettings
from rhapsody.inference.engine_texts import nonce_of
from tests.contract import work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MODEL = "stand-in/small"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """Return where a stand-in engine listens."""
    async with serving(StandInSettings(model=MODEL, speed=20)) as stand_in:
        yield stand_in.url


async def test_values_flow_from_tasks_to_models_and_back(session: Session, url: str) -> None:
    await session.connect_model(url, MODEL)
    number = ComputeTask(abs, args=(-2,))
    line = ComputeTask(executable="echo", arguments=["three"])
    asked = AITask("{} {}".format, args=(number, "words"), max_tokens=3)
    chat = AITask(lambda done: [{"role": "user", "content": done.stdout}], args=(line,), max_tokens=3)
    end = ComputeTask(lambda answers: [answer.split()[0] for answer in answers], args=([asked, chat],))

    await session.submit([number, line, asked, chat, end])
    await end

    assert end.return_value == [f"stand-in:{nonce_of('2 words')}", f"stand-in:{nonce_of('three' + chr(10))}"]
    assert asked.response.startswith("stand-in:")
    assert session.counts == {"DONE": 5}


async def test_they_are_answered_while_no_slot_is_free(narrow_session: Session, url: str, tmp_path: Path) -> None:
    await narrow_session.connect_model(url, MODEL)
    holds = ComputeTask(work.wait_for, args=(tmp_path / "go on",))
    asked = [AITask(f"prompt {number}", max_tokens=2) for number in range(50)]

    await narrow_session.submit([holds, *asked])
    await narrow_session.wait(asked)

    assert [task.state for task in asked] == [State.DONE] * 50
    assert not holds.is_final
    (tmp_path / "go on").touch()
    await holds


async def test_a_refusal_fails_it_and_what_depends_on_it(session: Session, url: str) -> None:
    await session.connect_model(url, MODEL)
    asked = AITask("too long " * 10_000)
    after = ComputeTask(abs, args=(asked,))

    await session.submit([asked, after])

    with pytest.raises(TaskFailed, match=r"(?s)ended FAILED: .* refuses a request with status 400: .* context of 8192"):
        await after
    assert (asked.state, asked.response) == (State.FAILED, None)


async def test_with_no_model_at_all_it_is_refused_and_told_what_to_do(session: Session) -> None:
    with pytest.raises(SpecError, match=r"no model to ask; first `await session.start\(ServiceTask.vllm"):
        await session.submit(AITask("hello"))

    assert session.counts == {}
