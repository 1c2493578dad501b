"""Describing tasks: what is accepted, what is refused, what a task says of itself."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from rhapsody.errors import SpecError, TaskCanceled, TaskFailed, TaskUnknown
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure, Stdio
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task


def nothing() -> None:
    """Do nothing."""


class TestPayload:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({}, "needs a function or an executable, got neither"),
            ({"function": nothing, "executable": "true"}, "needs a function or an executable, got both"),
            ({"function": 5}, r"function=5\) cannot be called"),
            ({"function": "dock"}, r"function='dock'\) cannot be called"),
        ],
    )
    def test_not_exactly_one_thing_to_run_is_refused(self, arguments: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            ComputeTask(**arguments)

    def test_an_executable_may_be_a_path(self) -> None:
        task = ComputeTask(executable=Path("/bin/true"), cwd=Path("/"))

        assert (task.executable, task.options.cwd) == ("/bin/true", "/")

    def test_the_label_is_the_name_of_what_runs(self) -> None:
        assert ComputeTask(nothing).label == "nothing"
        assert ComputeTask(executable="gmx").label == "gmx"


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"timeout_s": 0}, "timeout_s=0 must be a positive"),
            ({"timeout_s": -1.5}, "timeout_s=-1.5"),
            ({"timeout_s": "10"}, "timeout_s='10'"),
            ({"timeout_s": True}, "timeout_s=True"),
            ({"duration_s": 0}, "duration_s=0 must be a positive"),
            ({"duration_s": "1h"}, "duration_s='1h' must be a positive number of seconds"),
            ({"warn_s": -1}, "warn_s=-1 must be a positive"),
            ({"warn_s": 60}, "warn_s=60: only executables get a signal"),
            ({"retry": 0}, "retry=0 must be at least 1"),
            ({"retry": -2}, "retry=-2"),
            ({"retry": True}, "retry=True"),
            ({"env": {"A": 1}}, "'A': 1"),
            ({"env": {"A=B": "x"}}, "A=B"),
            ({"env": {"": "x"}}, "names"),
            ({"env": {"A": "x\0y"}}, "env="),
            ({"env": {1: "x"}}, "1: 'x'"),
            ({"after": ["task.1"]}, "after='task.1': only tasks"),
            ({"when_dependency_fails": "ignore"}, "when_dependency_fails='ignore'; valid: 'fail', 'run'"),
        ],
    )
    def test_a_wrong_option_is_refused_with_its_name_and_value(self, options: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError, match=words):
            ComputeTask(nothing, **options)

    def test_tasks_without_options_share_them(self) -> None:
        assert ComputeTask(nothing).options is DEFAULT_OPTIONS
        assert ComputeTask(nothing, args=[1], priority=3).options is DEFAULT_OPTIONS

    def test_options_are_copies_of_what_was_given(self) -> None:
        env, after = {"A": "1"}, [ComputeTask(nothing)]

        task = ComputeTask(nothing, env=env, after=after)
        env["A"] = "2"
        after.clear()

        assert task.options.env == {"A": "1"}
        assert len(task.options.after) == 1


class TestUids:
    @pytest.mark.parametrize("uid", ["", "a b", "../x", "-x", "ä", "a" * 201, 5, "a/b", "a\n"])
    def test_what_is_no_uid_is_refused(self, uid: Any) -> None:  # noqa: ANN401 - anything
        with pytest.raises(SpecError, match="is no uid"):
            ComputeTask(nothing, uid=uid)

    @pytest.mark.parametrize("uid", ["task.000001", "task.5", "map.12"])
    def test_a_uid_that_might_be_given_to_another_task_is_refused(self, uid: str) -> None:
        with pytest.raises(SpecError, match="choose another"):
            ComputeTask(nothing, uid=uid)

    @pytest.mark.parametrize("uid", ["a", "md-007", "a.b_c+d=e@f:g-h", "9" * 200])
    def test_a_good_uid_is_kept(self, uid: str) -> None:
        assert ComputeTask(nothing, uid=uid).uid == uid

    def test_tasks_without_one_have_different_uids(self) -> None:
        uids = {ComputeTask(nothing).uid for _ in range(100)}

        assert len(uids) == 100
        assert all(uid.startswith("task.") for uid in uids)


class TestLookingAtATask:
    def test_a_new_one_has_nothing_to_show(self) -> None:
        task = ComputeTask(nothing)

        shown = (task.state, task.return_value, task.stdout, task.stderr, task.exit_code, task.exception)

        assert shown == ("NEW", None, "", "", None, None)
        assert not task.is_final

    @pytest.mark.parametrize(
        ("state", "kind"),
        [(State.FAILED, TaskFailed), (State.CANCELED, TaskCanceled), (State.UNKNOWN, TaskUnknown)],
    )
    def test_one_that_did_not_end_well_has_an_exception(self, state: State, kind: type[Exception]) -> None:
        task = ComputeTask(nothing, uid="x")
        own = ValueError("boom")
        task.state, task.failure = state, Failure(Cause.EXCEPTION, "ValueError: boom", own, "Traceback: here")

        error = task.exception

        assert type(error) is kind
        assert str(error) == "x: ValueError: boom\nTraceback: here"
        assert error.__cause__ is own
        assert task.failure.seen

    def test_what_it_printed_is_there_at_the_end(self) -> None:
        task = ComputeTask(executable="x")
        task.stdio = Stdio("out", "err", -9)

        assert (task.stdout, task.stderr, task.exit_code) == ("out", "err", -9)

    def test_it_cannot_be_pickled_and_says_what_to_do_instead(self) -> None:
        with pytest.raises(SpecError, match="give it as an argument itself, or inside a list"):
            pickle.dumps(ComputeTask(nothing))

    def test_its_text_names_uid_and_state(self) -> None:
        assert repr(ComputeTask(nothing, uid="md-1")) == "<ComputeTask md-1 NEW>"


class TestWatching:
    def test_a_watcher_of_a_task_that_has_ended_is_called_at_once(self) -> None:
        task = ComputeTask(nothing)
        task.state = State.DONE
        seen: list[Task] = []

        task.watch(seen.append)

        assert seen == [task]

    def test_several_watchers_are_kept_in_order(self) -> None:
        task = ComputeTask(nothing)
        seen: list[int] = []
        for number in range(3):
            task.watch(lambda _, number=number: seen.append(number))  # type: ignore[misc]

        for watcher in task.watchers:
            watcher(task)

        assert seen == [0, 1, 2]
