"""Failures: each is an error of its own task; neighbours, the session and later tasks do not notice."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody import Cause, ComputeTask, RhapsodyError, Session, State, TaskFailed
from rhapsody.errors import RemoteError
from tests.contract import work

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NEIGHBOURS = 50


async def fail_among_neighbours(session: Session, bad: ComputeTask, ledger: Path) -> TaskFailed:
    """Run a task in the middle of others; return its failure after checking that it had no effect on them."""
    others = [ComputeTask(work.note, args=(ledger, number)) for number in range(NEIGHBOURS)]
    half = NEIGHBOURS // 2
    await session.submit([*others[:half], bad, *others[half:]])
    await session.wait()
    [after] = await session.submit(ComputeTask(abs, args=(-1,)))
    await after

    assert {task.state for task in others} == {State.DONE}
    assert sorted(map(int, work.lines(ledger))) == list(range(NEIGHBOURS))
    assert bad.state is State.FAILED
    assert session.counts == {"DONE": NEIGHBOURS + 1, "FAILED": 1}
    assert isinstance(bad.exception, TaskFailed)
    return bad.exception


@pytest.mark.parametrize(
    ("function", "cause", "text"),
    [
        (work.kill_itself, Cause.SIGNAL, "signal 9 (SIGKILL)"),
        (work.segfault, Cause.SIGNAL, "signal 11 (SIGSEGV)"),
        (work.abort, Cause.SIGNAL, "signal 6 (SIGABRT)"),
        (work.exit_hard, Cause.EXIT_CODE, "exited with code 3"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_death_of_the_process_fails_one_task(
    session: Session, tmp_path: Path, function: Callable[[], object], cause: Cause, text: str
) -> None:
    error = await fail_among_neighbours(session, ComputeTask(function), tmp_path / "ledger")

    assert error.cause == cause
    assert text in str(error)


@pytest.mark.parametrize(
    ("function", "kind", "text"),
    [
        (work.exit_softly, SystemExit, "SystemExit: 4"),
        (work.recurse, RecursionError, "maximum recursion depth"),
        (work.use_all_memory, MemoryError, "MemoryError"),
        (work.escape, work.Escape, "past every except Exception"),
        (work.interrupt, KeyboardInterrupt, "KeyboardInterrupt"),
        (work.say_too_much, ValueError, "characters left out"),
        (work.raise_holding_lock, RemoteError, "HoldsLock: it is locked"),
        (work.raise_needing_two, RemoteError, "NeedsTwo: this and that"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_exception_fails_one_task_with_its_traceback(
    session: Session, tmp_path: Path, function: Callable[[], object], kind: type[BaseException], text: str
) -> None:
    error = await fail_among_neighbours(session, ComputeTask(function), tmp_path / "ledger")

    assert error.cause == Cause.EXCEPTION
    assert isinstance(error.__cause__, kind)
    assert text in str(error)
    assert len(str(error)) < 100_000
    assert f"in {function.__name__}" in str(error)
    assert "/rhapsody/backends/" not in str(error)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (work.return_lock, "cannot pickle"),
        (work.return_generator, "cannot pickle"),
        (work.return_too_much, "write it to a file and pass the path"),
        (work.return_homesick, "cannot be read in the session: OSError: far from home"),
        (work.return_very_homesick, "cannot be read in the session: SystemExit: far from home"),
        (lambda: work.Unsendable(OSError), "stays where it is"),
        (lambda: work.Unsendable(SystemExit), "stays where it is"),
    ],
    ids=["lock", "generator", "500 MB", "setstate raises", "setstate exits", "reduce raises", "reduce exits"],
)
async def test_value_that_cannot_travel_fails_one_task(
    session: Session, tmp_path: Path, function: Callable[[], object], text: str
) -> None:
    error = await fail_among_neighbours(session, ComputeTask(function), tmp_path / "ledger")

    assert error.cause == Cause.RESULT
    assert text in str(error)


async def test_error_of_a_value_that_is_too_large_names_size_and_limit(session: Session) -> None:
    [task] = await session.submit(ComputeTask(work.return_too_much))

    with pytest.raises(TaskFailed, match=r"524,288,\d\d\d bytes are more than the 134,217,728 that"):
        await task


@pytest.mark.parametrize(
    "argument",
    [threading.Lock(), (number for number in range(3)), work.Unsendable(OSError), work.Unsendable(SystemExit)],
    ids=["lock", "generator", "reduce raises", "reduce exits"],
)
async def test_argument_that_cannot_travel_fails_one_task(session: Session, tmp_path: Path, argument: Any) -> None:  # noqa: ANN401 - anything
    error = await fail_among_neighbours(session, ComputeTask(id, args=(argument,)), tmp_path / "ledger")

    assert error.cause == Cause.ARGUMENTS
    assert "cannot be sent to a worker" in str(error)


async def test_argument_that_is_too_large_fails_one_task_with_the_limit(session: Session, tmp_path: Path) -> None:
    error = await fail_among_neighbours(session, ComputeTask(len, args=(bytes(200 << 20),)), tmp_path / "ledger")

    assert error.cause == Cause.ARGUMENTS
    assert "134,217,728" in str(error)


async def test_function_that_cannot_travel_fails_one_task(session: Session, tmp_path: Path) -> None:
    lock = threading.Lock()

    error = await fail_among_neighbours(session, ComputeTask(lambda: lock.locked()), tmp_path / "ledger")  # noqa: PLW0108 - a closure

    assert error.cause == Cause.ARGUMENTS


async def test_argument_that_cannot_be_read_by_the_worker_fails_one_task(session: Session, tmp_path: Path) -> None:
    error = await fail_among_neighbours(session, ComputeTask(id, args=(work.Homesick(OSError),)), tmp_path / "ledger")

    assert "far from home" in str(error)


async def test_failing_task_is_told_apart_from_printing_neighbours(session: Session, tmp_path: Path) -> None:
    def print_and_die() -> None:
        print("a last word", flush=True)  # noqa: T201 - what is tested
        work.kill_itself()

    error = await fail_among_neighbours(session, ComputeTask(print_and_die), tmp_path / "ledger")

    assert error.cause == Cause.SIGNAL


async def test_every_failure_is_counted_by_its_cause(session: Session) -> None:
    await session.submit([ComputeTask(work.exit_softly) for _ in range(3)] + [ComputeTask(work.kill_itself)])

    await session.wait()

    groups = session.failures
    assert {cause: group.count for cause, group in groups.items()} == {"exception": 3, "signal": 1}
    assert "SystemExit" in groups["exception"].example


async def test_retry_tries_only_failures_of_its_causes_again(session: Session, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"

    def die() -> None:
        work.note(ledger, "tried")
        work.kill_itself()

    [task] = await session.submit(ComputeTask(die, retry=3))
    with pytest.raises(TaskFailed, match="signal 9"):
        await task

    assert (task.attempt, work.lines(ledger)) == (3, ["tried"] * 3)


async def test_error_of_a_task_is_one_of_the_middleware_and_names_the_task(session: Session) -> None:
    [task] = await session.submit(ComputeTask(work.exit_softly, uid="leaver"))

    with pytest.raises(RhapsodyError, match=r"^leaver: SystemExit: 4") as caught:
        await task

    assert isinstance(caught.value, TaskFailed)
    assert caught.value.uid == "leaver"
