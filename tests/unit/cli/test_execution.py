"""How a campaign ends, with a real session on one core."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from rhapsody.cli import summary
from rhapsody.cli.execution import Outcome, execute
from rhapsody.cli.progress import Progress
from rhapsody.errors import SpecError
from rhapsody.model.task import ComputeTask
from rhapsody.session.deadline import duration
from rhapsody.session.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from rhapsody.cli.campaign import Campaign

    Run = Callable[[Campaign], Awaitable[Outcome]]

HERE = Path(__file__)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that executes a campaign in a session of its own."""

    async def run(campaign: Campaign) -> Outcome:
        session = Session(cores=1, gpus=0, runs=tmp_path, journal=False)
        return await execute(campaign, ["one", "two"], session, Progress())

    return run


async def good(session: Session, args: list[str]) -> None:
    await session.submit([ComputeTask(executable="echo", arguments=args) for _ in range(3)])


async def fails_unseen(session: Session, _args: list[str]) -> None:
    await session.submit(ComputeTask(executable="false"))


async def fails_seen(session: Session, _args: list[str]) -> None:
    await session.wait(await session.submit(ComputeTask(executable="false")))


async def fails_awaited(session: Session, _args: list[str]) -> None:
    (task,) = await session.submit(ComputeTask(executable="false", uid="wrong"))
    await task  # fails here


async def cancels_itself(_session: Session, _args: list[str]) -> None:
    raise asyncio.CancelledError


async def test_campaign_that_returned_ends_well_with_all_its_tasks(run: Run) -> None:
    outcome = await run(good)

    assert outcome.exit_code == 0
    assert outcome.session.counts == {"DONE": 3}
    assert summary.verdict(outcome) == ""


async def test_failure_that_the_campaign_never_looked_at_gives_1_and_a_reason(run: Run) -> None:
    outcome = await run(fails_unseen)

    assert outcome.error is None
    assert outcome.exit_code == 1
    assert summary.verdict(outcome).startswith("1 task failed and the campaign never looked")


async def test_failure_that_the_campaign_waited_for_gives_0(run: Run) -> None:
    outcome = await run(fails_seen)

    assert outcome.session.counts == {"FAILED": 1}
    assert outcome.exit_code == 0


async def test_failure_that_the_campaign_did_not_catch_is_told_with_its_line(run: Run) -> None:
    outcome = await run(fails_awaited)
    line = HERE.read_text().splitlines().index("    await task  # fails here") + 1

    assert outcome.exit_code == 1
    assert summary.error_text(outcome, HERE).startswith(f"test_execution.py:{line}: wrong: false exited with code 1")
    assert summary.verdict(outcome) == ""


async def test_wrong_input_gives_2(run: Run) -> None:
    async def asks_for_nothing(_session: Session, _args: list[str]) -> None:
        raise SpecError("nothing asked for")

    outcome = await run(asks_for_nothing)

    assert outcome.exit_code == 2


@pytest.mark.parametrize(
    ("code", "exit_code", "text"), [(None, 0, ""), (0, 0, ""), (3, 3, ""), ("no ligands", 1, "no ligands")]
)
async def test_code_given_to_sys_exit_stands(run: Run, code: int | str | None, exit_code: int, text: str) -> None:
    async def leaves(_session: Session, _args: list[str]) -> None:
        raise SystemExit(code)

    outcome = await run(leaves)

    assert outcome.exit_code == exit_code
    assert summary.error_text(outcome, HERE) == text


async def test_campaign_that_cancels_itself_is_an_error_and_no_interruption(run: Run) -> None:
    outcome = await run(cancels_itself)

    assert isinstance(outcome.error, asyncio.CancelledError)
    assert not outcome.interrupted
    assert outcome.exit_code == 1


async def test_ctrl_c_that_breaks_into_a_blocked_campaign_interrupts_it(run: Run) -> None:
    async def is_broken_into(_session: Session, _args: list[str]) -> None:
        raise KeyboardInterrupt

    outcome = await run(is_broken_into)

    assert outcome.interrupted
    assert outcome.error is None
    assert summary.verdict(outcome) == "interrupted"


async def test_table_says_what_ended_how_and_why(run: Run) -> None:
    outcome = await run(fails_seen)
    outcome.wall_s = 3723.0

    lines = summary.table(outcome).splitlines()

    assert "1 FAILED" in lines[0]
    assert lines[1] == "wall time   1 h 02 min"
    assert lines[2] == f"run folder  {outcome.session.run_dir}"
    assert lines[4] == "failed  cause      for example"
    assert lines[5].startswith("     1  exit_code  task.")
    assert lines[5].endswith("false exited with code 1")


async def test_json_holds_what_the_table_says(run: Run) -> None:
    outcome = await run(fails_unseen)

    found = json.loads(summary.as_json(outcome, ""))

    assert found["schema"] == 1
    assert found["run"]["run_dir"] == str(outcome.session.run_dir)
    assert found["run"]["exit_code"] == 1
    assert found["run"]["error"] == summary.verdict(outcome)
    assert found["tasks"] == {"FAILED": 1}
    assert [(group["cause"], group["count"]) for group in found["failures"]] == [("exit_code", 1)]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.96, "1 min 00 s"), (61.4, "1 min 01 s"), (7199.6, "2 h 00 min")]
)
def test_duration_has_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text
