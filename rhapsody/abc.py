"""The contracts between the parts: what a backend, a policy and a sink of events promise.

Batches cross every border here, never single tasks. Everything is called from the session's event loop, one call at a
time, unless said otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from rhapsody.model.allocation import Allocation
    from rhapsody.model.array import ArrayTask
    from rhapsody.model.event import State
    from rhapsody.model.outcome import Failure, Stdio
    from rhapsody.model.resources import Placement, Resources
    from rhapsody.model.task import Task


Edges: TypeAlias = "Mapping[Task, Sequence[Task]]"
"""Tasks that depend on others, each with those."""
NO_EDGES: Edges = MappingProxyType({})


class RunContext(NamedTuple):
    """What a backend knows of the run that it works for.

    Attributes:
        allocation: The nodes it may use; it starts nothing on others.
        run_dir: The run folder.
        clock_offset_ns: Added to `time.monotonic_ns()` of the session's node it gives the session's clock.
        env: Variables that every task finds in its environment.
        session: Which session of the run it is: 1, and one more each time that the run is resumed.
    """

    allocation: Allocation
    run_dir: Path
    clock_offset_ns: int
    env: dict[str, str]
    session: int = 1

    @property
    def logs(self) -> Path:
        """Folder for whole outputs: `logs/` of the run folder, for a resumed run `logs/<session>/`."""
        return logs_folder(self.run_dir, self.session)


def logs_folder(run_dir: Path, session: int) -> Path:
    """Return the folder for whole outputs of one session of a run."""
    return run_dir / "logs" if session == 1 else run_dir / "logs" / str(session)


class Aftermath(NamedTuple):
    """What became of the attempts of a session that died.

    Attributes:
        reports: On attempts whose results may not have reached it, and RUNNING for those that were ended with it;
            perhaps on some that it knew of.
        complete: Whether no other attempt of that session was under way at its end.
        damage: What should have said more but could not be read, and why; empty if nothing.
    """

    reports: Sequence[Report] = ()
    complete: bool = False
    damage: str = ""


class Assignment(NamedTuple):
    """Attempts that one placement runs one after another, in this order.

    Executables, MPI tasks and array tasks come alone.

    Attributes:
        placement: Cores and GPUs, leased until each attempt was reported on.
        tasks: At least one.
        items: For an array task, the half-open range of items to run; else None.
        attempt: For an array task, the number of this launch; else 0: the attempt of each task is its own `attempt`.
    """

    placement: Placement
    tasks: Sequence[Task]
    items: tuple[int, int] | None = None
    attempt: int = 0


class Report(NamedTuple):
    """What a backend says of one attempt.

    Attributes:
        number: The task's number.
        attempt: Which attempt of it; the scheduler drops what does not match the current one.
        state: RUNNING, or how it ended; READY gives back an attempt that never started and was not asked to stop.
        started_ns: When it entered RUNNING, on the session's clock; 0 if it never did.
        ended_ns: When it ended; 0 for RUNNING and READY.
        value: For DONE, what flows to dependents; for items of an array task, the list of their values.
        failure: For FAILED, CANCELED and UNKNOWN, why.
        stdio: What it printed and its exit code, where there is any.
        items: For an array task, the half-open range that the report speaks of; DONE leaves out those in it that were
            reported FAILED before.
    """

    number: int
    attempt: int
    state: State
    started_ns: int = 0
    ended_ns: int = 0
    value: Any = None
    failure: Failure | None = None
    stdio: Stdio | None = None
    items: tuple[int, int] | None = None


class Listener(Protocol):
    """Who hears a backend's reports: the scheduler."""

    @abstractmethod
    def hear(self, reports: Sequence[Report]) -> None:
        """Take what happened since the last time, in order per attempt; never raises."""

    @abstractmethod
    def broken(self, reason: str) -> None:
        """Learn that the runtime is gone for good; every attempt was reported on before."""

    @abstractmethod
    def nodes_lost(self, nodes: Sequence[int], reason: str) -> None:
        """Learn that nodes are gone for good; every attempt on them was reported on before.

        What those reports themselves let the scheduler launch there is given back as READY afterwards.

        Args:
            nodes: Indices in the allocation; those that were told before are passed over.
            reason: What was seen of it, for the user: `"nothing was heard of it for 8 s"`.
        """


class Backend(Protocol):
    """One runtime that executes attempts on the nodes it was given.

    The scheduler decides what runs where; a backend carries it out and reports. No method blocks the loop for more than
    a millisecond per thousand attempts.

    Attributes:
        name: As users write it in `Policy.backend`.
    """

    name: str

    @abstractmethod
    async def recover(self, run_dir: Path, session: int) -> Aftermath:
        """Clear away what a session that died has left, and say what became of its attempts; called before `start`.

        May be called again after an error or cancellation. Afterwards nothing runs that this session started, and
        nothing of its own is left in temporary folders; other sessions' things are not touched.

        Args:
            run_dir: The run folder, of the run that is being resumed.
            session: Which session of it died.

        Raises:
            BackendError: Something of it is still there and cannot be ended.
        """

    @abstractmethod
    async def start(self, context: RunContext, listener: Listener) -> None:
        """Bring the runtime up.

        After success every node accepts attempts. After an error or cancellation nothing of the runtime is left.

        Raises:
            BackendError: It did not come up in time; the text names node, command and the last lines it wrote.
        """

    @abstractmethod
    def check(self, task: Task) -> None:
        """Refuse a task that this runtime can never run; called before it is accepted.

        Raises:
            SpecError: What it asks for is absent: an executable, an MPI launcher.
        """

    @abstractmethod
    def launch(self, batch: Sequence[Assignment]) -> None:
        """Take over attempts with their placements; returns at once.

        Each attempt ends in exactly one report of a final state or READY, whatever happens to workers, nodes or the
        runtime. One that cannot be started fails alone.
        """

    @abstractmethod
    def cancel(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Stop attempts, given as `(number, attempt)`; of an array task, all its items.

        Its report says whether that came in time: CANCELED, or how it ended before. A cancelled attempt's processes,
        children included, are gone when the report arrives. Unknown attempts are ignored: their report is under way.
        """

    @abstractmethod
    def warn(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Send SIGUSR1 to the processes of executables, given as `(number, attempt)`; others are left alone."""

    @abstractmethod
    async def aclose(self) -> None:
        """End the runtime; attempts still there are cancelled first.

        May be called again. Afterwards no process, socket or shared-memory segment of this backend exists, even when
        this call is cancelled half-way.
        """


class Recalled(NamedTuple):
    """What earlier sessions of a run know of a task that is submitted again.

    Attributes:
        state: DONE: it does not run, its value is there; FAILED: it does not run, since its value was not kept;
            UNKNOWN: it does not run, since it may have run; READY: it runs, its next attempt follows `attempt`.
        attempt: Number of the last attempt.
        value: For DONE, what flows to dependents.
        stdio: What it printed.
        failure: For FAILED and UNKNOWN, why.
        items: For an array task, what is left of it.
        place: For DONE, where the value is kept: the sink knows what that means. None: nowhere yet.
    """

    state: State
    attempt: int = 0
    value: Any = None
    stdio: Stdio | None = None
    failure: Failure | None = None
    items: RecalledItems | None = None
    place: tuple[int, int] | None = None


class RecalledItems(NamedTuple):
    """What earlier sessions know of an array task's items.

    Attributes:
        done: Half-open ranges of items that do not run, with their values, and where these are kept.
        unknown: Half-open ranges of items that do not run, since they may have run, with the reason.
    """

    done: Sequence[tuple[tuple[int, int], Sequence[Any], tuple[int, int] | None]]
    unknown: Sequence[tuple[tuple[int, int], Failure]]


class History(Protocol):
    """What earlier sessions of a run have done."""

    @abstractmethod
    def recall(self, tasks: Sequence[Task], edges: Edges) -> dict[Task, Recalled]:
        """Return what is known of tasks; those of which nothing is known, and which run as if new, are left out.

        A task is recalled once: another that is equal to it is found as the next of its kind.

        Args:
            tasks: About to be accepted; before those that depend on them.
            edges: What tasks depend on, those that depend on any.
        """


class EventSink(Protocol):
    """Where every change of state goes before anybody hears of it: the journal.

    Attempts are read from the tasks when called.
    """

    @abstractmethod
    def accepted(self, tasks: Sequence[Task], time_ns: int, *, edges: Edges = NO_EDGES, ready: bool = False) -> None:
        """Record that tasks entered WAITING, with what is needed to tell them apart later.

        Args:
            tasks: In the order of the events.
            time_ns: When.
            edges: What tasks depend on, those that depend on any.
            ready: They wait for nothing: record that they entered READY as well, after all of them entered WAITING.
        """

    @abstractmethod
    def restored(self, recalled: Sequence[tuple[Task, Recalled]], time_ns: int) -> None:
        """Record that tasks entered DONE, and items of array tasks, since they did so in an earlier session."""

    @abstractmethod
    def entered(self, state: State, tasks: Sequence[Task], times_ns: int | Sequence[int]) -> None:
        """Record that tasks entered a state; final ones other than DONE with their `failure`."""

    @abstractmethod
    def ran(self, tasks: Sequence[Task], started_ns: Sequence[int], ended_ns: Sequence[int]) -> None:
        """Record that tasks entered RUNNING, then that they entered DONE: `entered` twice, at less cost."""

    @abstractmethod
    def placed(self, assignments: Sequence[Assignment], time_ns: int) -> None:
        """Record that the tasks of assignments entered PLACED, with their slots."""

    @abstractmethod
    def items_entered(self, state: State, task: ArrayTask, items: tuple[int, int], time_ns: int, detail: str) -> None:
        """Record that a range of an array task's items entered a state; DONE, with the values that it has by then."""

    @abstractmethod
    def commit(self) -> None:
        """Hand everything recorded so far to the operating system, so that a killed process loses none of it.

        Raises:
            JournalError: It could not be written.
        """


class FreeNodes(Protocol):
    """What is free, for placement policies to look at; valid during one call."""

    @abstractmethod
    def ranks_that_fit(self, node: int, request: Resources) -> int:
        """Return how many ranks of the request a node could take now."""

    @abstractmethod
    def fullest_first(self, request: Resources) -> Iterable[int]:
        """Yield nodes that can take at least one rank, those with the least room for such ranks first."""

    @abstractmethod
    def emptiest_first(self, request: Resources) -> Iterable[int]:
        """Yield nodes that can take at least one rank, those with the most room for such ranks first."""


class PlacementPolicy(Protocol):
    """Picks the nodes of a request; the mapper binds cores and GPUs on them."""

    @abstractmethod
    def choose(self, request: Resources, free: FreeNodes) -> Sequence[tuple[int, int]] | None:
        """Return `(node, ranks)` pairs that add up to the request's ranks, or None when it does not fit now.

        What does not fit a node is refused by the mapper with a `SpecError`.
        """


class RetryPolicy(Protocol):
    """Says whether and when a failed attempt is followed by another."""

    @abstractmethod
    def delay_before_next(self, attempt: int, failure: Failure) -> float | None:
        """Return the seconds to wait before the next attempt, or None to give up.

        Args:
            attempt: Number of the attempt that failed, from 1.
            failure: Why.
        """
