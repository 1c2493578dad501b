"""Dependencies: what flows along an edge, and what a failure does to those behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody import Completed, ComputeTask, Resources, Session, SpecError, State, TaskError, TaskFailed
from tests.contract import work
from tests.requirements import needs_command

if TYPE_CHECKING:
    from pathlib import Path


async def test_value_of_a_function_flows_into_arguments_at_any_place(session: Session) -> None:
    first = ComputeTask(abs, args=(-2,))
    second = ComputeTask(
        lambda plain, *, listed, named: (plain, listed, named),
        args=(first,),
        kwargs={"listed": [first, (first, 1)], "named": {"x": {"y": first}}},
    )

    await session.submit([first, second])
    await second

    assert second.return_value == (2, [2, (2, 1)], {"x": {"y": 2}})


async def test_dependency_may_be_submitted_and_done_before(session: Session) -> None:
    [first] = await session.submit(ComputeTask(abs, args=(-2,)))
    await first

    [second] = await session.submit(ComputeTask(lambda x: x + 1, args=(first,)))
    await second

    assert second.return_value == 3


async def test_completion_of_an_executable_flows(session: Session) -> None:
    first = ComputeTask(executable="echo", arguments=["hello"])
    second = ComputeTask(lambda completed: completed, args=(first,))

    await session.submit([first, second])
    await second

    assert isinstance(second.return_value, Completed)
    assert second.return_value.stdout == "hello\n"


async def test_value_flows_into_arguments_of_an_executable_as_text(session: Session) -> None:
    first = ComputeTask(abs, args=(-2,))
    second = ComputeTask(executable="echo", arguments=["value", first])

    await session.submit([first, second])
    await second

    assert second.stdout == "value 2\n"


@needs_command("mpiexec", package="openmpi-bin")
async def test_list_by_rank_flows_out_of_an_mpi_function_and_values_flow_in(session: Session) -> None:
    first = ComputeTask(abs, args=(-10,))
    ranks = ComputeTask(lambda base: base + work.rank(), args=(first,), resources=Resources(ranks=2))
    total = ComputeTask(sum, args=(ranks,))

    await session.submit([first, ranks, total])
    await total

    assert total.return_value == 21


async def test_after_orders_without_passing_anything(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    chain = [ComputeTask(work.note, args=(ledger, 0))]
    for n in range(1, 100):
        chain.append(ComputeTask(work.note, args=(ledger, n), after=[chain[-1]]))

    await session.submit(chain)
    await session.wait()

    assert work.lines(ledger) == [str(n) for n in range(100)]


async def test_wide_diamond_runs_each_task_once(session: Session) -> None:
    top = ComputeTask(abs, args=(-1,))
    middle = [ComputeTask(lambda x, n: x + n, args=(top, n)) for n in range(500)]
    bottom = ComputeTask(sum, args=(middle,))

    await session.submit([bottom, *middle, top])
    await bottom

    assert bottom.return_value == sum(1 + n for n in range(500))
    assert session.counts == {"DONE": 502}


async def test_failed_dependency_fails_all_behind_it_with_its_name_and_cause(session: Session) -> None:
    bad = ComputeTask(work.kill_itself, uid="bad")
    second = ComputeTask(abs, args=(bad,), uid="second")
    third = ComputeTask(abs, args=(second,), uid="third")
    fine = ComputeTask(abs, args=(-1,))

    await session.submit([bad, second, third, fine])
    await session.wait()

    assert [task.state for task in (bad, second, third, fine)] == [State.FAILED] * 3 + [State.DONE]
    with pytest.raises(TaskFailed, match=r"bad.*FAILED.*signal 9") as caught:
        await second
    assert caught.value.cause == "dependency"
    with pytest.raises(TaskFailed, match="bad"):
        await third


async def test_dependent_that_wants_to_run_gets_the_error_as_value(session: Session) -> None:
    bad = ComputeTask(work.exit_softly, uid="bad")
    curious = ComputeTask(
        lambda error: (type(error).__name__, error.uid, isinstance(error, TaskError)),
        args=(bad,),
        when_dependency_fails="run",
    )

    await session.submit([bad, curious])
    await curious

    assert curious.return_value == ("TaskFailed", "bad", True)


async def test_dependency_that_is_tried_again_delays_its_dependents(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def fail_twice() -> str:
        work.note(ledger, "tried")
        if len(work.lines(ledger)) < 3:
            raise ValueError("not yet")
        return "at last"

    first = ComputeTask(fail_twice, retry=3)
    second = ComputeTask(str.upper, args=(first,))
    await session.submit([first, second])
    await second

    assert (first.attempt, second.return_value) == (3, "AT LAST")


async def test_dependency_that_was_never_submitted_is_refused(session: Session) -> None:
    stranger = ComputeTask(abs, args=(-1,), uid="stranger")

    with pytest.raises(SpecError, match="stranger"):
        await session.submit(ComputeTask(abs, args=(stranger,)))


async def test_value_that_cannot_be_sent_on_fails_the_dependent_only(session: Session) -> None:
    first = ComputeTask(work.OnceOnly)
    second = ComputeTask(lambda value: value, args=(first,))
    third = ComputeTask(abs, args=(-3,), after=[first])

    await session.submit([first, second, third])
    await session.wait()

    assert [task.state for task in (first, second, third)] == [State.DONE, State.FAILED, State.DONE]
    assert "cannot be sent to a worker" in str(second.exception)
