"""Tasks: work that ends.

A task is made by the user, fixed when it is submitted, and from then on written by the scheduler only. A million of
them may wait in a queue, so they are small: what is rarely given lives in one `TaskOptions`, shared when it is all
defaults.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from rhapsody.errors import SpecError, TaskCanceled, TaskError, TaskFailed, TaskUnknown
from rhapsody.model.event import State
from rhapsody.model.outcome import Failure, Stdio
from rhapsody.model.resources import SERIAL, Resources

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from rhapsody.abc import RetryPolicy
    from rhapsody.model.policy import Policy
    from rhapsody.model.service import Gate, Needed

_numbers = itertools.count(1)
_RESERVED_UID = re.compile(r"(task|map|ai)\.\d+|service\..*")
_VALID_UID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=@:-]{0,199}")
_PRIORITY_LIMIT = 1_000_000_000
_NO_STDIO = Stdio()
NEW = State.NEW
DONE = State.DONE

type_error_for = {State.FAILED: TaskFailed, State.CANCELED: TaskCanceled, State.UNKNOWN: TaskUnknown}

WhenDependencyFails = Literal["fail", "run"]


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What few tasks need; `ComputeTask` documents each.

    Raises:
        SpecError: A value is wrong.
    """

    env: Mapping[str, str] | None = None
    cwd: str | None = None
    timeout_s: float | None = None
    after: tuple[Task, ...] = ()
    idempotent: bool = False
    retry: int | RetryPolicy | None = None
    policy: Policy | None = None
    capture_stdio: bool = False
    when_dependency_fails: WhenDependencyFails = "fail"
    duration_s: float | None = None
    warn_s: float | None = None
    needs: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        _require_options(self)

    @property
    def environment(self) -> dict[str, str]:
        """Variables added to the environment: those of services that it needs, as they are now, and `env` over them."""
        found: dict[str, str] = {}
        for gate in self.needs:
            found.update(gate.variables)
        return found | dict(self.env or {})


class Task:
    """What every kind of task shares: identity, state, and being awaited.

    `await task` returns the task when it is DONE, else raises `TaskFailed`, `TaskCanceled` or `TaskUnknown`.

    Attributes:
        number: Unique in this process; the uid derives from it unless given.
        state: Where it is on its way; compares equal to its name.
        attempt: Number of the current attempt, from 1; 0 before the first.
        priority: Higher goes first among the ready ones.
        resources: What it asks for.
        options: What is rarely given.
    """

    __slots__ = (
        "_uid",
        "attempt",
        "failure",
        "lease",
        "links",
        "number",
        "options",
        "priority",
        "resources",
        "state",
        "stdio",
        "value",
        "watchers",
    )

    kind = "task"

    def __init__(self, uid: str | None, resources: Resources, priority: int, options: TaskOptions) -> None:
        self.number = next(_numbers)
        self._uid = uid
        self.resources = resources
        self.priority = priority
        self.options = options
        self.state = NEW
        self.attempt = 0
        self.value: Any = None
        self.failure: Failure | None = None
        self.stdio: Stdio | None = None
        self.links: Any = None
        """The scheduler's: dependents and what is still awaited."""
        self.lease: Any = None
        """The scheduler's: what the task runs on, or ran on last."""
        self.watchers: Any = None
        """The scheduler's: None, one callable, or a list of callables that want to know of the end."""
        if uid is not None:
            _require_uid(uid)
        if priority != 0:
            _require_priority(priority)

    @property
    def uid(self) -> str:
        """The user's uid, or one derived from the number."""
        return self._uid or derived_uid(self.kind, self.number)

    @property
    def given_uid(self) -> str | None:
        """The uid that the user gave, or None."""
        return self._uid

    @property
    def is_final(self) -> bool:
        """Whether the task has ended, one way or another."""
        return self.state.is_final

    @property
    def return_value(self) -> Any:  # noqa: ANN401 - whatever the user's function returned
        """Value of the function, `Completed` of an executable, list by rank for MPI; None until DONE."""
        return self.value

    @property
    def stdout(self) -> str:
        """The last 64 KiB that the task printed."""
        return (self.stdio or _NO_STDIO).stdout

    @property
    def stderr(self) -> str:
        """The last 64 KiB that the task printed to standard error."""
        return (self.stdio or _NO_STDIO).stderr

    @property
    def exit_code(self) -> int | None:
        """Exit code of an executable, negative for a signal; None for functions and until the end."""
        return (self.stdio or _NO_STDIO).exit_code

    @property
    def exception(self) -> BaseException | None:
        """What awaiting the task raises; None unless it ended in another state than DONE."""
        return self._error() if self.state in type_error_for else None

    def __await__(self) -> Generator[Any, None, Self]:
        if self.state is NEW:
            raise SpecError(f"task {self.uid} was never submitted; pass it to Session.submit first")
        if self.state is not DONE and self.state not in type_error_for:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.watch(lambda _task: None if future.done() else future.set_result(None))
            yield from future
        if self.state is DONE:
            return self
        raise self._error()

    def watch(self, watcher: Callable[[Task], object]) -> None:
        """Have `watcher(task)` called, on the session's loop, once the task has ended.

        Each watcher is called exactly once; of a task that has ended already, at once.
        """
        if self.is_final:
            watcher(self)
        elif self.watchers is None:
            self.watchers = watcher
        elif type(self.watchers) is list:
            self.watchers.append(watcher)
        else:
            self.watchers = [self.watchers, watcher]

    def look_at(self) -> None:
        """Note that somebody knows how the task ended."""
        if self.failure is not None:
            self.failure.seen = True

    def _error(self) -> TaskError:
        self.look_at()
        failure = self.failure
        text = failure.message if failure else str(self.state)
        if failure and failure.traceback:
            text = f"{text}\n{failure.traceback.rstrip()}"
        error = type_error_for[self.state](f"{self.uid}: {text}", self.uid, failure.cause if failure else "")
        error.__cause__ = failure.exception if failure else None
        return error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uid} {self.state}>"

    def __reduce__(self) -> NoReturn:
        raise SpecError(
            f"task {self.uid} cannot be pickled: give it as an argument itself, or inside a list, tuple or dict at most"
            f" {ARGUMENT_DEPTH} levels deep, and its value is passed in"
        )


ARGUMENT_DEPTH = 3
"""How deep inside lists, tuples and dicts of the arguments a task is found as a dependency."""


def derived_uid(kind: str, number: int) -> str:
    """Return the uid of a task that got none from the user."""
    return f"{kind}.{number:06d}"


class ComputeTask(Task):
    """One call of a Python function, or one run of an executable, serial or MPI.

    A task among the arguments is a dependency: its value is passed in once it is DONE. What flows: a function's return
    value; an executable's `Completed`; an MPI function's list by rank. In `arguments` of an executable the value is
    passed as text. Arguments are read when the task is launched: leave them alone until it has ended.

    Args:
        function: What to call; closures and lambdas too. Either this or `executable`. It is serialised once: what it
            closes over, and a script's globals, stay as they were at its first task. Pass as arguments what changes.
        executable: Path, or a name that is found on PATH.
        arguments: Of the executable.
        args: Positional arguments of the function.
        kwargs: Keyword arguments of the function.
        resources: What it asks for; one core unless said. With `ranks` above 1 it is started through MPI.
        uid: Unique in the session; also the key under which a resumed run finds it.
        priority: Higher goes first.
        env: Variables added to the environment.
        cwd: Folder to run in; the session's unless given.
        timeout_s: Seconds from RUNNING after which the attempt is ended and counts as failed.
        after: Tasks that must be DONE first; nothing flows.
        idempotent: It may be run twice: a lost attempt is repeated instead of ending UNKNOWN.
        retry: A `RetryPolicy`; or attempts in all, as a number. None: one attempt.
        policy: Overrides the session's, field by field.
        capture_stdio: Keep all it prints, in `logs/<uid>.<attempt>.out` and `.err` of the run folder.
        when_dependency_fails: `"fail"` fails it too, with the cause named; `"run"` passes the `TaskError` in as value.
        duration_s: Expected seconds. Where the end of the allocation is known, nothing is started that would not finish
            before. Unless given it is learned from what ended: see `rhapsody.scheduling.costs`.
        warn_s: Of an executable: so many seconds before the session ends running tasks, its processes get SIGUSR1. It
            is taken to save then what it has: with no `duration_s` it is started as long as twice that time is left.
        needs: Services that must be ready first; their addresses are in its environment then, as
            `RHAPSODY_SERVICE_<NAME>_URL`.

    Raises:
        SpecError: Neither or both of function and executable, or a value of the wrong type.
    """

    __slots__ = ("args", "arguments", "executable", "function", "kwargs")

    def __init__(  # noqa: PLR0913 - one description of a task, all but the first by keyword
        self,
        function: Callable[..., Any] | None = None,
        *,
        executable: str | Path | None = None,
        arguments: Sequence[object] = (),
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        resources: Resources = SERIAL,
        uid: str | None = None,
        priority: int = 0,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        timeout_s: float | None = None,
        after: Sequence[Task] | None = None,
        idempotent: bool = False,
        retry: int | RetryPolicy | None = None,
        policy: Policy | None = None,
        capture_stdio: bool = False,
        when_dependency_fails: WhenDependencyFails = "fail",
        duration_s: float | None = None,
        warn_s: float | None = None,
        needs: Needed | Sequence[Needed] | None = None,
    ) -> None:
        if (
            env is cwd is timeout_s is after is retry is policy is duration_s is warn_s is needs is None  # type: ignore[comparison-overlap]
            and not idempotent
            and not capture_stdio
            and when_dependency_fails == "fail"
        ):
            options = DEFAULT_OPTIONS
        else:
            options = TaskOptions(
                env=_mapping_of("env", env),
                cwd=None if cwd is None else str(cwd),
                timeout_s=timeout_s,
                after=_tuple_of("after", after or ()),
                idempotent=idempotent,
                retry=retry,
                policy=policy,
                capture_stdio=capture_stdio,
                when_dependency_fails=when_dependency_fails,
                duration_s=duration_s,
                warn_s=warn_s,
                needs=() if needs is None else _gates_of(needs),
            )
            if warn_s is not None and executable is None:
                _refuse_warning(warn_s)
        super().__init__(uid, resources, priority, options)
        self.function = function
        self.executable = executable if executable is None else str(executable)
        self.arguments = arguments if type(arguments) is tuple else _tuple_of("arguments", arguments)
        self.args = args if type(args) is tuple else _tuple_of("args", args)
        self.kwargs = kwargs if kwargs is None else _mapping_of("kwargs", kwargs)
        if (function is None) is (executable is None) or not (function is None or callable(function)):
            _refuse_payload(function, executable)

    @property
    def label(self) -> str:
        """What runs, for people: the function's name or the executable."""
        if self.executable is not None:
            return self.executable
        return str(getattr(self.function, "__qualname__", None) or self.function)


def _gates_of(needs: Needed | Sequence[Needed]) -> tuple[Gate, ...]:
    from rhapsody.model.service import gates_of  # noqa: PLC0415 - a gate is a task

    return gates_of(needs)


def _tuple_of(name: str, value: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(value, str | bytes | Task) or not isinstance(value, Iterable):
        raise SpecError(f"{name}={value!r} is no list or tuple; for a single one write {name}=[{value!r}]")
    return tuple(value)


def _mapping_of(name: str, value: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if value is not None and not (isinstance(value, Mapping) and all(isinstance(key, str) for key in value)):
        raise SpecError(f"{name}={value!r} is no dict with texts as keys")
    return dict(value) if value else None


def _refuse_payload(function: object, executable: object) -> NoReturn:
    if function is not None and executable is None:
        raise SpecError(f"ComputeTask(function={function!r}) cannot be called; give a function, or executable=…")
    found = "neither" if function is None else "both"
    raise SpecError(f"ComputeTask needs a function or an executable, got {found}")


def _refuse_warning(warn_s: float) -> NoReturn:
    raise SpecError(f"warn_s={warn_s!r}: only executables get a signal; a function calls rhapsody.time_left()")


def _require_uid(uid: str) -> None:
    if not isinstance(uid, str) or not _VALID_UID.fullmatch(uid):
        raise SpecError(
            f"uid={uid!r} is no uid: letters, digits and ._+=@:- only, at most 200, a letter or digit first"
        )
    if _RESERVED_UID.fullmatch(uid):
        raise SpecError(f"uid={uid!r} looks like one that RHAPSODY gives itself; choose another")


def _require_priority(priority: int) -> None:
    if type(priority) is not int or abs(priority) > _PRIORITY_LIMIT:
        raise SpecError(f"priority={priority!r} must be a whole number between ±{_PRIORITY_LIMIT:,}")


def require_retry(retry: object, where: str) -> None:
    """Refuse what says nothing about retries.

    Raises:
        SpecError: It is neither a number of attempts nor a `RetryPolicy`; `where` begins the text.
    """
    if isinstance(retry, int) and (isinstance(retry, bool) or retry < 1):
        raise SpecError(f"{where}retry={retry!r} must be at least 1 attempt in all, or a retry policy")
    if not (retry is None or isinstance(retry, int) or hasattr(retry, "delay_before_next")):
        raise SpecError(f"{where}retry={retry!r} is no number of attempts and no RetryPolicy")


def _require_options(options: TaskOptions) -> None:
    for name in ("timeout_s", "duration_s", "warn_s"):
        _require_seconds(name, getattr(options, name))
    for task in options.after:
        if not isinstance(task, Task):
            raise SpecError(f"after={task!r}: only tasks can be waited for")
    if options.when_dependency_fails not in ("fail", "run"):
        raise SpecError(f"when_dependency_fails={options.when_dependency_fails!r}; valid: 'fail', 'run'")
    require_retry(options.retry, "")
    for name, value in (options.env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or not name or "=" in name or "\0" in name + value:
            raise SpecError(f"env={{{name!r}: {value!r}}}: names and values must be texts, names without '='")


def _require_seconds(name: str, value: object) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value > 0):
        raise SpecError(f"{name}={value!r} must be a positive number of seconds")


DEFAULT_OPTIONS = TaskOptions()
