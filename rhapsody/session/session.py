"""The session: submit tasks, wait for them, cancel them."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from rhapsody.abc import RunContext
from rhapsody.errors import BackendError, SessionClosedError, TaskError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Resources
from rhapsody.model.task import DEFAULT_OPTIONS, Task, TaskOptions
from rhapsody.scheduling.mapper import Mapper
from rhapsody.scheduling.scheduler import Scheduler
from rhapsody.session.backend_choice import choose_backend
from rhapsody.session.dispatch import Dispatch
from rhapsody.session.ending import Ending
from rhapsody.session.failures import FailureGroup, Failures
from rhapsody.session.models import Models
from rhapsody.session.notices import Notices
from rhapsody.session.run import Run
from rhapsody.session.services import Services
from rhapsody.session.signals import Interrupts
from rhapsody.session.supply import supply
from rhapsody.session.timekeeper import Timekeeper
from rhapsody.session.waiting import AnyTask, Arrivals, Countdown, future_of, list_of
from rhapsody.session.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping
    from pathlib import Path
    from types import TracebackType

    from rhapsody.abc import Backend, RetryPolicy
    from rhapsody.inference.gateway_run import OpenGateway
    from rhapsody.model.allocation import Allocation
    from rhapsody.services.service import ServiceTask
    from rhapsody.telemetry.history.past import Tally

STOP_LIMIT_S = 20.0
_GC_THRESHOLD = 100_000


class Session:
    """Runs tasks on an allocation, until it is closed.

    Use it as an async context manager, or `session = await Session()` and `await session.aclose()` in a notebook; a
    submission opens it too. Leaving the context waits for what was submitted; leaving it by an exception cancels.

    Args:
        backend: Name of the runtime, or one of your own; `$RHAPSODY_BACKEND`, else `"auto"`.
        allocation: Nodes to use; else those of the job that a node agent has started this process in, or this node, or
            what `cores` and `gpus` say of them.
        cores: Cores to use of each node; `$RHAPSODY_CORES`, else those of the affinity mask. More of them share CPUs.
        gpus: GPUs to use of each node; `$RHAPSODY_GPUS`, else those found.
        policy: Default for all tasks.
        name: First part of the run folder's name.
        runs: Folder for run folders; `$RHAPSODY_RUNS`, else `./runs`.
        journal: Whether changes of state are written to the run folder; without it nothing can be resumed or reported.
        notify: Called with one-line messages for the user; standard error when None.
        walltime_s: Seconds from the opening on until the allocation ends. That is also taken from `$RHAPSODY_DEADLINE`
            (seconds since the epoch) and from the batch system; the earliest counts.
        drain_s: Seconds before that end from which on nothing new starts; 60, or a tenth of the whole if that is less.

        resume: Folder of a run to go on with: what is DONE there is not run again, and keeps its value.
        rerun_unknown: Run again what may have run when an earlier session died; else such tasks end UNKNOWN.
        run_dir: Run folder that `rhapsody deploy` has made for this run; one is made below `runs`, unless given.
        facts: What `run.json` says besides: what JSON can say.

    Raises:
        SpecError: An argument or variable is wrong.
    """

    def __init__(  # noqa: PLR0913 - one per flag of `rhapsody run`, all by keyword
        self,
        *,
        backend: str | Backend | None = None,
        allocation: Allocation | None = None,
        cores: int | None = None,
        gpus: int | None = None,
        policy: Policy | None = None,
        name: str = "session",
        runs: Path | str | None = None,
        journal: bool = True,
        notify: Callable[[str], None] | None = None,
        walltime_s: float | None = None,
        drain_s: float | None = None,
        resume: Path | str | None = None,
        rerun_unknown: bool = False,
        run_dir: Path | str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.allocation = supply(allocation, cores, gpus)
        """Nodes of the session."""
        self._policy = policy or Policy()
        self._notify = Notices(notify or _say)
        self._models = Models(self._policy.routing, self._notify)
        self._backend = Dispatch(choose_backend(backend, self.allocation, self._notify), self._models)
        self._run = Run(
            name,
            runs,
            resume,
            run_dir=run_dir,
            journal=journal,
            rerun_unknown=rerun_unknown,
            facts=facts or {},
            notices=self._notify,
        )
        self._timekeeper = Timekeeper(walltime_s, drain_s, self._notify)
        self._opening: asyncio.Lock = asyncio.Lock()
        self._scheduler: Scheduler | None = None
        self._services: Services | None = None
        self._error: BaseException | None = None
        self._ending = Ending(self._notify, STOP_LIMIT_S)
        self.last_words: Callable[[BaseException | None], Mapping[str, object]] = lambda _error: {}
        """Called with what left the session's context, just before it is closed: what `run.json` shall say besides."""
        self._gc_before: tuple[int, int, int] | None = None
        self._interrupts: Interrupts | None = None
        self._watchdog = Watchdog(self._notify)
        self._failures = Failures()

    # Opening and closing

    async def __aenter__(self) -> Self:
        self._ending.owner = asyncio.current_task()
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._error = error
        drains = self._ending.draining or self.out_of_time
        promised = drains and kind is not None and issubclass(kind, TaskError | SessionClosedError)
        try:
            if kind is None or promised:  # what drains was told that it may end
                await self.wait()
        finally:
            await self.aclose()

    def __await__(self) -> Generator[Any, None, Self]:
        return self._opened().__await__()

    async def _opened(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> Scheduler:
        if self._scheduler is not None and not self._ending.closed:
            return self._scheduler
        async with self._opening:
            if self._ending.closed:
                raise SessionClosedError("the session is closed; make a new one")
            if self._scheduler is None:
                self._scheduler = await self._wire()
            return self._scheduler

    async def _wire(self) -> Scheduler:
        """Put the parts together: journal, mapper, scheduler, backend."""
        await self._timekeeper.look()
        offset_ns = time.time_ns() - time.monotonic_ns()
        facts = self._facts() | self._timekeeper.facts
        run_dir = await self._run.open(self._backend, facts, self._taken_over, self._ending.asked)

        def clock() -> int:
            return time.monotonic_ns() + offset_ns

        try:
            scheduler = Scheduler(
                backend=self._backend,
                mapper=Mapper(self.allocation),
                sink=self._run.journal,
                policy=self._policy,
                clock=clock,
                notify=self._notify,
            )
            scheduler.history = self._run.past
            self._models.attach(scheduler, clock, run_dir)
            loop = asyncio.get_running_loop()
            self._run.journal.watch_for_errors(lambda: loop.call_soon_threadsafe(scheduler.look_at_journal))
            scheduler.on_failure = self._failures.note
            env = {"RHAPSODY_RUN_DIR": str(run_dir), "RHAPSODY_ATTEMPT": "1", **self._timekeeper.env}
            context = RunContext(self.allocation, run_dir, offset_ns, env, self._run.session)
            await self._backend.start(context, scheduler)
            self._services = Services(scheduler, context, self._models, self._notify)
        except BaseException:  # cancellation too: neither lease nor journal may stay open
            self._run.close()
            raise
        if self.allocation.oversubscribed:
            cpus = sum(len(set(node.cpus)) or node.shape.cores for node in self.allocation.nodes)
            self._notify(f"oversubscribed: {self.allocation.usable_cores} cores declared, {cpus} CPUs to run on")
        self._gc_before = gc.get_threshold()
        gc.set_threshold(max(_GC_THRESHOLD, self._gc_before[0]), *self._gc_before[1:])
        self._ending.watch(scheduler)
        self._timekeeper.watch(scheduler, self._backend, self._ending.ran_out)
        self._interrupts = Interrupts(self._ending.drain, self._ending.stop, self._timekeeper.signaled)
        self._interrupts.__enter__()
        self._watchdog.start()
        return scheduler

    def _facts(self) -> dict[str, Any]:
        return {
            "backend": self._backend.name,
            "allocation": self.allocation.model_dump(mode="json"),
            "oversubscribed": self.allocation.oversubscribed,
        }

    async def aclose(self) -> None:
        """End the session: what has not ended is cancelled, nothing of it runs on. May be called again."""
        if self._ending.closed:
            return
        self._ending.closed = True
        self._timekeeper.close()
        self._watchdog.close()
        if self._scheduler is None:
            return
        if self._gc_before is not None:
            gc.set_threshold(*self._gc_before)
        try:
            self._scheduler.close("the session was closed")
            left, limit_s = self._scheduler.tasks, self._timekeeper.at_most(STOP_LIMIT_S)
            self._scheduler.cancel(left)
            if not await Countdown(left).wait(limit_s):
                self._notify(f"{len(self._scheduler.tasks)} tasks did not end within {limit_s:.3g} s; ending them hard")
            if self._services is not None:
                await self._services.aclose(self._timekeeper.at_most(STOP_LIMIT_S))
        finally:
            try:
                await self._backend.aclose()
            finally:
                self._scheduler.abandon("the session was closed before anybody saw how it ended")
                ended = {"ended_ns": time.time_ns(), "tasks": self.counts}
                self._run.close(ended | dict(self.last_words(self._error)))
                if self._interrupts is not None:
                    self._interrupts.__exit__(None, None, None)

    def _taken_over(self, reason: str) -> None:
        self._run.journal.fence(reason)
        self._ending.taken_over(reason)

    async def drain(self) -> None:
        """Start nothing more: tasks that wait are cancelled, those that run end by themselves."""
        scheduler = await self._open()
        scheduler.close("the session drains")
        await Countdown(scheduler.tasks).wait(None)

    # Submitting

    async def submit(self, tasks: AnyTask | Iterable[AnyTask]) -> list[AnyTask]:
        """Accept tasks: validated and in the journal when this returns; all of them or none.

        Returns:
            The tasks, as a list.

        Raises:
            SpecError: A task is wrong or can never run here; the text names it.
            SessionClosedError: The session drains or is closed.
            BackendError: The runtime did not start, or is gone.
        """
        batch = list_of(tasks, "submit")
        scheduler = await self._open()
        await scheduler.submit(batch)
        return batch

    async def submit_tasks(self, tasks: Iterable[Task]) -> list[asyncio.Future[Task]]:
        """Accept tasks like `submit`; return a future for each, as rhapsody-py does."""
        batch = await self.submit(tasks)
        return [future_of(task) for task in batch]

    async def map(  # noqa: PLR0913 - the first two by position, the rest by keyword
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        chunk: int | None = None,
        resources: Resources = SERIAL,
        uid: str | None = None,
        priority: int = 0,
        timeout_s: float | None = None,
        retry: int | RetryPolicy | None = None,
        idempotent: bool = False,
        after: Sequence[Task] = (),
        policy: Policy | None = None,
        duration_s: float | None = None,
    ) -> ArrayTask:
        """Accept one array task: the function applied to each item.

        Awaiting it gives the task; its `return_value` is the list of values, in the order of the items.

        Args:
            function: Called with one item.
            items: A sequence is used as it is; anything else is read into a list first.
            chunk: Items handed over at a time; None lets their measured duration decide.
            resources: Of one item.
            uid: Unique in the session.
            priority: Higher goes first.
            timeout_s: Seconds for one item, after which it counts as failed.
            retry: For each failed item.
            idempotent: Items may be run twice.
            after: Tasks that must be DONE first.
            policy: Overrides the session's.
            duration_s: Expected seconds for one item; see `ComputeTask`.
        """
        options = TaskOptions(
            timeout_s=timeout_s,
            retry=retry,
            idempotent=idempotent,
            after=tuple(after),
            policy=policy,
            duration_s=duration_s,
        )
        sequence = items if isinstance(items, Sequence) or hasattr(items, "__array__") else list(items)
        array = ArrayTask(
            function,
            sequence,  # type: ignore[arg-type]
            chunk=chunk,
            resources=resources,
            uid=uid,
            priority=priority,
            options=DEFAULT_OPTIONS if options == DEFAULT_OPTIONS else options,
        )
        await self.submit(array)
        return array

    async def start(self, service: ServiceTask) -> ServiceTask:
        """Accept a service; `await service.ready()` then waits until it is ready. It ends with the session.

        Returns:
            The service, for `needs=[service]` of tasks.

        Raises:
            SpecError: It can never run here, or another has its name.
            SessionClosedError: The session drains or is closed.
            BackendError: The runtime did not start, or is gone.
        """
        await self._open()
        assert self._services is not None  # noqa: S101 - made when the session was opened
        return await self._services.start(service)

    async def connect_model(
        self, url: str, model: str, *, key_file: Path | str | None = None, probe_path: str = "/v1/completions"
    ) -> str:
        """Have AI tasks and the gateway use a model server that is not the session's; return the uid it has here.

        Args:
            url: Of the server, such as `http://node7:8000`.
            model: That it serves.
            key_file: File with the key that it wants, readable by you only.
            probe_path: Where it is tried when it seems to hang: `/v1/embeddings` for a server that only embeds.

        Raises:
            SpecError: It does not answer, wants another key, or has no such model.
        """
        await self._open()
        return await self._models.connect(url, model, key_file, probe_path)

    async def gateway(self, host: str | None = None, port: int = 0) -> OpenGateway:
        """Return the one address of all models of the session, for clients of OpenAI's API; it ends with the session.

        Args:
            host: Address to listen on; None: one that all nodes reach.
            port: Port to listen on; 0 picks a free one.

        Returns:
            Its `url`, the `key_file` with what clients must show, and `models`.

        Raises:
            SpecError: It cannot listen there, or listens elsewhere already.
        """
        await self._open()
        assert self._services is not None  # noqa: S101 - made when the session was opened
        return await self._models.gateway(host or self._services.host, port)

    async def cancel(self, tasks: Task | Iterable[Task]) -> None:
        """Cancel tasks and return when they have ended; no process of them is left."""
        batch = list_of(tasks, "cancel")
        scheduler = await self._open()
        scheduler.cancel(batch)
        await Countdown(batch).wait(None)

    # Waiting

    async def wait(self, tasks: Iterable[Task] | None = None, *, timeout_s: float | None = None) -> bool:
        """Wait until tasks have ended, in whatever state; never raises for failed ones.

        Args:
            tasks: Which; all that the session has when None, those submitted meanwhile too.
            timeout_s: Seconds at most; None waits as long as it takes.

        Returns:
            Whether all have ended.
        """
        if tasks is not None:
            batch = list(tasks)
            ended = await Countdown(batch).wait(timeout_s)
            for task in batch:
                if task.failure is not None:
                    task.look_at()
            return ended
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while left := self.tasks:
            rest_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not await Countdown(left).wait(rest_s):
                return False
        return True

    def as_completed(self, tasks: Iterable[Task]) -> Arrivals:
        """Return an async iterator over tasks in the order in which they end, in whatever state."""
        return Arrivals(tasks)

    # Looking

    @property
    def tasks(self) -> list[Task]:
        """Tasks that have not ended."""
        return self._scheduler.tasks if self._scheduler is not None else []

    @property
    def running(self) -> list[Task]:
        """Tasks that were seen RUNNING, the longest running first."""
        return list(self._scheduler.running.values()) if self._scheduler is not None else []

    @property
    def counts(self) -> dict[str, int]:
        """Tasks by state, ended ones included; items of array tasks count each."""
        found = self._scheduler.counts if self._scheduler is not None else {}
        return {str(state): found[state] for state in State if found.get(state, 0)}

    @property
    def failures(self) -> dict[str, FailureGroup]:
        """Failed tasks, grouped by cause."""
        return self._failures.groups

    @property
    def unseen_failures(self) -> int:
        """Failed tasks that nobody awaited, waited for or asked for their exception."""
        return self._failures.unseen

    def time_left(self) -> float:
        """Return the seconds until running tasks are ended; `math.inf` where no end is known, never negative."""
        return self._timekeeper.time_left()

    @property
    def interrupted(self) -> bool:
        """Whether somebody wished the session to end, or another one took its run."""
        return self._ending.interrupted

    @property
    def out_of_time(self) -> bool:
        """Whether nothing new starts any more because the end of the allocation is near."""
        return self._timekeeper.out_of_time

    @property
    def left_undone(self) -> int:
        """Tasks that were cancelled because of that; items of array tasks count each."""
        return self._timekeeper.left

    @property
    def run_dir(self) -> Path:
        """The run folder.

        Raises:
            BackendError: The session is not open yet.
        """
        if self._run.folder is None:
            raise BackendError("the session has no run folder yet: open it first (async with, or await)")
        return self._run.folder

    @property
    def uid(self) -> str:
        """The run's uid: the run folder's name."""
        return self.run_dir.name

    @property
    def resumed(self) -> Tally | None:
        """How the tasks submitted so far compare with those of earlier sessions; None in a run that was not resumed."""
        return self._run.past.tally if self._run.past is not None else None

    @property
    def backend_name(self) -> str:
        """Name of the runtime that was chosen."""
        return self._backend.name


def _say(message: str) -> None:
    print(f"rhapsody: {message}", file=sys.stderr, flush=True)  # noqa: T201 - the default way to tell a user
