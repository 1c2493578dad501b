"""A backend that answers what a test tells it to, a sink that remembers, and a scheduler between the two.

The backend keeps the contract of `rhapsody.abc.Backend` and holds the scheduler to its side of it: it notes in
`violations` what must never happen, two launches of one attempt, or one core given to two attempts at a time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from typing_extensions import override

from rhapsody.abc import NO_EDGES, Aftermath, Assignment, Backend, EventSink, Listener, Report, RunContext
from rhapsody.errors import JournalError
from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.event import Event, State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.policy import Policy
from rhapsody.model.task import ComputeTask
from rhapsody.scheduling.mapper import Mapper
from rhapsody.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rhapsody.abc import Edges, Recalled
    from rhapsody.model.array import ArrayTask
    from rhapsody.model.resources import Placement
    from rhapsody.model.task import Task

Key = tuple[int, int]


def nodes_of(cores: int, count: int = 1, **shape: Any) -> Allocation:  # noqa: ANN401 - fields of NodeShape
    """Return an allocation of equal nodes, named n0, n1, …"""
    return Allocation(
        nodes=tuple(Node(name=f"n{index}", shape=NodeShape(cores=cores, **shape)) for index in range(count))
    )


def nothing() -> None:
    """Do nothing."""


def plain(**options: Any) -> ComputeTask:  # noqa: ANN401 - options of ComputeTask
    """Return a task that does nothing."""
    return ComputeTask(nothing, **options)


class Clock:
    """Nanoseconds that pass by one with each look."""

    def __init__(self) -> None:
        self.now_ns = 1_000

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


class Launch(NamedTuple):
    """One attempt that was launched and not yet reported on."""

    task: Task
    attempt: int
    placement: Placement
    items: tuple[int, int] | None

    @property
    def key(self) -> Key:
        """What reports and cancellations name it by."""
        return self.task.number, self.attempt


class ScriptedBackend(Backend):
    """Reports when told to.

    Attributes:
        launches: Every attempt ever launched, in order.
        open: Attempts not yet reported on.
        canceled: What was asked to stop.
        warned: What was to get a signal.
        violations: What the scheduler did wrong.
        refusal: What `check` raises.
    """

    name = "scripted"

    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.open: dict[Key, Launch] = {}
        self.canceled: list[Key] = []
        self.warned: list[Key] = []
        self.violations: list[str] = []
        self.refusal: Exception | None = None
        self.listener: Listener
        self.closed = False
        self.clock = Clock()
        self._launched: set[Key] = set()

    @override
    async def recover(self, run_dir: Path, session: int) -> Aftermath:
        return Aftermath(complete=True)

    @override
    async def start(self, context: RunContext, listener: Listener) -> None:
        self.listener = listener

    @override
    def check(self, task: Task) -> None:
        if self.refusal is not None:
            raise self.refusal

    @override
    def launch(self, batch: Sequence[Assignment]) -> None:
        for assignment in batch:
            self._refuse_shared(assignment)
            for task in assignment.tasks:
                self._take(Launch(task, assignment.attempt or task.attempt, assignment.placement, assignment.items))

    def _refuse_shared(self, assignment: Assignment) -> None:
        held = {
            (slot.node, core): launch.key
            for launch in self.open.values()
            if launch.placement is not assignment.placement
            for slot in launch.placement.slots
            for core in slot.cores
        }
        wanted = {(slot.node, core) for slot in assignment.placement.slots for core in slot.cores}
        self.violations += [f"core {core} was given twice, first to {held[core]}" for core in wanted & held.keys()]

    def _take(self, launch: Launch) -> None:
        if launch.key in self._launched:
            self.violations.append(f"attempt {launch.key} was launched twice")
        if launch.task.is_final:
            self.violations.append(f"{launch.task} was launched after its end")
        self._launched.add(launch.key)
        self.launches.append(launch)
        self.open[launch.key] = launch

    @override
    def cancel(self, attempts: Sequence[Key]) -> None:
        self.canceled += attempts

    @override
    def warn(self, attempts: Sequence[Key]) -> None:
        self.warned += attempts

    @override
    async def aclose(self) -> None:
        self.closed = True
        self.hear(*(self.ended(launch, State.CANCELED) for launch in list(self.open.values())))

    def ended(self, launch: Launch, state: State = State.DONE, value: Any = None, cause: Cause | None = None) -> Report:  # noqa: ANN401
        """Return the report of an attempt's end, two ticks after it began to run."""
        failure = None
        if state is not State.DONE:
            cause = cause or (Cause.CANCELED if state is State.CANCELED else Cause.EXCEPTION)
            failure = Failure(cause, f"scripted {cause}")
        if launch.items is not None and state is State.DONE and value is None:
            value = [None] * (launch.items[1] - launch.items[0])
        started, ended = self.clock() * 1_000, self.clock() * 1_000
        return Report(launch.task.number, launch.attempt, state, started, ended, value, failure, items=launch.items)

    def given_back(self, launch: Launch) -> Report:
        """Return the report that an attempt never started."""
        self._launched.discard(launch.key)  # it may come again under the same number
        return Report(launch.task.number, launch.attempt, State.READY, items=launch.items)

    def started(self, launch: Launch) -> Report:
        """Return the report that an attempt runs."""
        return Report(launch.task.number, launch.attempt, State.RUNNING, self.clock() * 1_000, items=launch.items)

    def hear(self, *reports: Report) -> None:
        """Tell the scheduler; what ended is open no more."""
        for report in reports:
            launch = self.open.get((report.number, report.attempt))
            if launch is not None and report.state is not State.RUNNING and report.items == launch.items:
                del self.open[launch.key]
        self.listener.hear(reports)

    def launch_of(self, task: Task) -> Launch:
        """Return the task's open attempt.

        Raises:
            LookupError: It has none.
        """
        for launch in self.open.values():
            if launch.task is task:
                return launch
        raise LookupError(f"{task} is not launched")

    def done(self, *tasks: Task, value: Any = None) -> None:  # noqa: ANN401
        """Report that tasks are done, all at once."""
        self.hear(*(self.ended(self.launch_of(task), value=value) for task in tasks))

    def fail(self, task: Task, cause: Cause | None = None, state: State = State.FAILED) -> None:
        """Report that a task's attempt failed, or ended otherwise."""
        self.hear(self.ended(self.launch_of(task), state, cause=cause))

    def finish_all(self, limit: int = 10_000) -> None:
        """Report DONE until nothing is open any more; the value of a plain task is the attempt that ended."""
        for _ in range(limit):
            if not self.open:
                return
            launches = list(self.open.values())
            self.hear(*(self.ended(launch, value=None if launch.items else launch.attempt) for launch in launches))
        raise AssertionError(f"still not finished: {list(self.open)[:10]}")

    @property
    def running(self) -> list[Task]:
        """Tasks with an open attempt, in the order of the launches."""
        return [launch.task for launch in self.open.values()]


class MemorySink(EventSink):
    """Remembers events; `events` holds those that were committed.

    Attributes:
        full: Whether `commit` fails, as on a full disk.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.full = False
        self._pending: list[Event] = []

    @override
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, edges: Edges = NO_EDGES, ready: bool = False) -> None:
        for state in (State.WAITING, State.READY) if ready else (State.WAITING,):
            for task in tasks:
                self._note(task, state, time_ns)

    @override
    def restored(self, recalled: Sequence[tuple[Task, Recalled]], time_ns: int) -> None:
        for task, known in recalled:
            for items in [row[0] for row in known.items.done] if known.items else [None]:
                self._note(task, State.DONE, time_ns, items)

    @override
    def entered(self, state: State, tasks: Sequence[Task], times_ns: int | Sequence[int]) -> None:
        times = [times_ns] * len(tasks) if isinstance(times_ns, int) else times_ns
        for task, time_ns in zip(tasks, times, strict=True):
            has_detail = state.is_final and state is not State.DONE
            self._note(task, state, time_ns, detail=str(task.failure and task.failure.message) if has_detail else "")

    @override
    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        self.entered(State.RUNNING, tasks, started_ns)
        self.entered(State.DONE, tasks, ended_ns)

    @override
    def placed(self, assignments: Sequence[Assignment], time_ns: int) -> None:
        for assignment in assignments:
            for task in assignment.tasks:
                attempt = assignment.attempt or task.attempt
                slots = tuple((slot.node, slot.cores, slot.gpus) for slot in assignment.placement.slots)
                event = Event(self._next, time_ns, task.uid, attempt, State.PLACED, assignment.items, slots)
                self._pending.append(event)

    @override
    def items_entered(self, state: State, task: ArrayTask, items: tuple[int, int], time_ns: int, detail: str) -> None:
        self._note(task, state, time_ns, items, detail)

    @override
    def commit(self) -> None:
        if self.full:
            raise JournalError("the disk is full")
        self.events += self._pending
        self._pending = []

    def close(self) -> None:
        """Commit what is left."""
        self.commit()

    @property
    def _next(self) -> int:
        return len(self.events) + len(self._pending)

    def _note(
        self, task: Task, state: State, time_ns: int, items: tuple[int, int] | None = None, detail: str = ""
    ) -> None:
        self._pending.append(Event(self._next, time_ns, task.uid, task.attempt, state, items, (), detail))

    def of(self, task: Task) -> list[tuple[State, int]]:
        """Return the committed states of a task, each with its attempt."""
        return [(event.state, event.attempt) for event in self.events if event.uid == task.uid]

    def states_of(self, task: Task) -> list[State]:
        """Return the committed states of a task."""
        return [state for state, _ in self.of(task)]


@dataclass
class Rig:
    """A scheduler with a scripted backend below it and a remembering sink beside it."""

    allocation: Allocation = field(default_factory=lambda: nodes_of(2))
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        self.backend = ScriptedBackend()
        self.mapper = Mapper(self.allocation)
        self.sink = MemorySink()
        self.said: list[str] = []
        self.scheduler = Scheduler(
            backend=self.backend,
            mapper=self.mapper,
            sink=self.sink,
            policy=self.policy,
            clock=self.backend.clock,
            notify=self.said.append,
        )
        self.backend.listener = self.scheduler

    async def submit(self, *tasks: Task) -> None:
        """Submit tasks in one list."""
        await self.scheduler.submit(tasks)

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts that are not zero."""
        return {str(state): count for state, count in self.scheduler.counts.items() if count}

    @property
    def is_all_free(self) -> bool:
        """Whether every core was given back."""
        return self.mapper.free_cores == self.allocation.usable_cores and self.mapper.free_gpus == self.allocation.gpus
