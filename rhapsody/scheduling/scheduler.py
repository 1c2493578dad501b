"""The loop over tasks: accepted → ready → placed → running → ended, in batches.

One cycle does everything that an occasion (a submission, a batch of reports, a timer) brings: it settles what ended,
makes dependents ready, places what fits, writes the journal, launches, and only then tells who waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from rhapsody.abc import Assignment
from rhapsody.errors import BackendError, JournalError, SessionClosedError, SpecError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task
from rhapsody.scheduling.arrays import ArrayRun
from rhapsody.scheduling.costs import Costs
from rhapsody.scheduling.graph import link
from rhapsody.scheduling.intake import Intake, Plan
from rhapsody.scheduling.queue import CHUNKED, SINGLY, Line, LineKey, ReadyQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.abc import Backend, EventSink, Report
    from rhapsody.model.policy import Policy
    from rhapsody.model.resources import Placement
    from rhapsody.scheduling.mapper import Mapper

SLICE = 2048
"""Tasks that are taken in before the event loop gets its turn."""
JOURNAL_RETRY_S = 1.0
_LOST_LIMIT = 3
"""Launches of an idempotent task whose end nobody saw."""
WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN


class Lease:
    """A placement that is held while attempts on it are open.

    Attributes:
        placement: What is held.
        line: Where the tasks came from, and where more may come from.
        open: Attempts launched and not reported on.
        refill_at: More are sent when so few are open; 0 waits for the last.
        hungry: Whether it was noted for refilling in this cycle.
    """

    __slots__ = ("hungry", "line", "open", "placement", "refill_at")

    def __init__(self, placement: Placement, line: Line) -> None:
        self.placement = placement
        self.line = line
        self.open = 0
        self.refill_at = 0
        self.hungry = False


class Scheduler:
    """Decides what runs next and where; hears what became of it.

    Args:
        backend: Runs attempts.
        mapper: Binds requests to slots.
        sink: Told of every change of state before anybody else.
        policy: The session's default.
        clock: Returns nanoseconds on the session's clock.
        notify: Called with one line for the user when something needs attention.
    """

    def __init__(  # noqa: PLR0913 - the parts it wires, each once
        self,
        backend: Backend,
        mapper: Mapper,
        sink: EventSink,
        policy: Policy,
        clock: Callable[[], int],
        notify: Callable[[str], None],
    ) -> None:
        self._backend = backend
        self._mapper = mapper
        self._sink = sink
        self._clock = clock
        self._notify = notify
        self._intake = Intake(backend, mapper, policy)
        self._submitting = asyncio.Lock()
        self._queue = ReadyQueue()
        self._costs = Costs()
        self._live: dict[int, Task] = {}
        self._arrays: dict[int, ArrayRun] = {}
        self._lines: dict[int, Line] = {}
        """Line of each array task."""
        self._batch: list[Assignment] = []
        self._ended: list[Task] = []
        self._timers: dict[Task, asyncio.TimerHandle] = {}
        self._blocked: Line | None = None
        self._sharing = False
        self._patience = 2 * mapper.usable_cores + 16
        self._closed = ""
        self._stalled: asyncio.TimerHandle | None = None
        self._commit_due = False
        self.counts: Counter[State] = Counter()
        """Tasks by state; items of array tasks count each."""
        self.running: dict[int, Task] = {}
        """Tasks seen RUNNING, in the order in which they were seen."""
        self.failed: list[Task] = []
        """Tasks that ended in a cycle as FAILED or UNKNOWN, for the session to take."""

    @property
    def tasks(self) -> list[Task]:
        """Tasks that have not ended."""
        return list(self._live.values())

    # Taking in

    async def submit(self, tasks: Sequence[Task]) -> None:
        """Accept tasks, all or none; the loop gets its turn in between.

        Raises:
            SpecError: One is wrong; none was accepted.
            SessionClosedError: The session takes no more.
            BackendError: The runtime is gone.
        """
        async with self._submitting:
            self._require_open()
            plan = Plan(tasks)
            for first in range(0, len(tasks), SLICE):
                self._intake.check(tasks[first : first + SLICE], plan)
                if len(tasks) > SLICE:
                    await asyncio.sleep(0)
            self._intake.check_whole(tasks, plan, self._live.keys())
            self._require_open()
            self._intake.uids |= plan.uids
            first = 0
            try:
                for first in range(0, len(tasks), SLICE):
                    self._accept(tasks[first : first + SLICE], plan)
                    if len(tasks) > SLICE:
                        await asyncio.sleep(0)
            except asyncio.CancelledError:  # all or none: the rest goes in at once
                self._accept(tasks[first + SLICE :], plan)
                raise

    def _require_open(self) -> None:
        if self._closed:
            raise SessionClosedError(f"no more tasks are taken: {self._closed}")
        if self._stalled is not None:
            raise JournalError("no tasks are taken while the journal cannot be written; see the message before")

    def _accept(self, tasks: Sequence[Task], plan: Plan) -> None:
        now = self._clock()
        live = self._live
        for task in tasks:
            task.state = WAITING
            live[task.number] = task
        self._sink.accepted(tasks, now)
        ready: Sequence[Task] = tasks
        if plan.edges:
            ready = [task for task in tasks if task not in plan.edges or self._is_free(task, plan.edges[task])]
        self.counts[WAITING] += sum(map(_weight, tasks)) if any(type(t) is ArrayTask for t in tasks) else len(tasks)
        self._make_ready(ready, now)
        self._cycle()

    def _is_free(self, task: Task, dependencies: Sequence[Task]) -> bool:
        """Link a task to its dependencies; return whether it may run now."""
        if task.options.when_dependency_fails == "fail":
            for dependency in dependencies:
                if dependency.is_final and dependency.state is not DONE:
                    self._end_for_dependency(task, dependency)
                    return False
        return not link(task, dependencies)

    def _make_ready(self, tasks: Sequence[Task], now: int) -> None:
        """Let tasks that wait for nothing join their lines."""
        if not tasks:
            return
        last: tuple[object, object, object, object] = (None, None, None, None)
        line: Line | None = None
        weight = 0
        for task in tasks:
            task.state = READY
            kind = task.executable is None if type(task) is ComputeTask else task
            traits = (task.resources, task.options, task.priority, kind)
            if line is None or traits != last:
                if line is not None:
                    self._queue.push(line)
                line = self._line_of(task)
                last = traits
            line.tasks.append(task)
            weight += 1 if type(task) is ComputeTask else _weight(task)
        if line is not None:
            self._queue.push(line)
        self._move(weight, WAITING, READY)
        self._sink.entered(READY, tasks, now)

    def _line_of(self, task: Task) -> Line:
        policy = self._intake.policy_of(task)
        alone = CHUNKED
        if isinstance(task, ArrayTask):
            alone = task.number
            self._arrays[task.number] = ArrayRun(task, self._intake.retry_of(task))
        elif task.resources.is_mpi or (isinstance(task, ComputeTask) and task.executable is not None):
            alone = SINGLY
        if policy.oversubscribe:
            self._sharing = True
        line = self._queue.line(LineKey(task.priority + policy.priority, task.resources, policy, alone))
        if alone > 0:
            self._lines[alone] = line
        return line

    # Placing

    def _pump(self) -> None:
        """Place what fits, the most urgent first; a big one that waits is not overtaken for ever."""
        if self._closed or self._stalled is not None or not (self._mapper.free_cores or self._sharing):
            return
        kept: list[Line] = []
        blocked: Line | None = None
        while (line := self._queue.pop()) is not None:
            launched = self._place_line(line)
            if launched:
                line.overtaken = 0
                if blocked is not None:
                    blocked.overtaken += launched
            if line.tasks:
                kept.append(line)
                blocked = blocked or line
            if blocked is not None and blocked.overtaken > self._patience:
                break
            if not (self._mapper.free_cores or self._sharing):
                break
        for line in kept:
            self._queue.push(line)
        self._blocked = blocked

    def _place_line(self, line: Line) -> int:
        """Lease slots to a line as long as there are some; return how many."""
        launched = 0
        key = line.key
        lanes = max(1, self._mapper.usable_cores // key.request.cores_per_rank)
        while line.prune():
            run = self._arrays.get(key.alone) if key.alone > 0 else None
            if run is not None and not run.has_more:
                line.tasks.clear()
                break
            placement = self._placement_for(line)
            if placement is None:
                break
            lease = Lease(placement, line)
            if run is not None:
                self._launch_items(lease, run, run.take(self._costs, lanes))
            else:
                self._launch(lease, line.take(self._costs, len(line.tasks) // (2 * lanes)))
            launched += 1
        return launched

    def _placement_for(self, line: Line) -> Placement | None:
        policy = line.key.policy
        within: Sequence[int] | None = None
        if policy.colocate_with is not None:
            lease = policy.colocate_with.lease
            if lease is None and policy.colocate_with.number in self._live:
                return None
            within = lease.placement.nodes if lease is not None else None
        try:
            return self._mapper.place(line.key.request, policy, within)
        except Exception as exc:  # noqa: BLE001 - a user's placement policy may raise anything
            task = line.tasks.popleft()
            text = f"it could not be placed: {type(exc).__name__}: {exc}"
            self._end(task, FAILED, self._clock(), Failure(Cause.LAUNCH, text, exc))
            return None

    def _launch(self, lease: Lease, tasks: list[Task]) -> None:
        for task in tasks:
            task.state = PLACED
            task.attempt += 1
            task.lease = lease
        count = len(tasks)
        lease.open += count
        lease.refill_at = count // 2 if count > 1 else 0
        self._move(count, READY, PLACED)
        self._batch.append(Assignment(lease.placement, tasks))

    def _launch_items(self, lease: Lease, run: ArrayRun, items: tuple[int, int]) -> None:
        lease.open += 1
        run.task.lease = lease
        if run.task.state is READY:
            run.task.state = PLACED
        self._move(items[1] - items[0], READY, PLACED)
        attempt = run.launched(items, lease)
        run.task.attempt = attempt
        self._batch.append(Assignment(lease.placement, [run.task], items, attempt))

    def _refill(self, lease: Lease) -> None:
        """Send more of the same to a lease that is running dry, or give its placement back."""
        lease.hungry = False
        line = lease.line
        if not self._closed and self._stalled is None and self._queue.is_next(line):
            lanes = max(1, self._mapper.usable_cores // line.key.request.cores_per_rank)
            if line.key.alone == CHUNKED and line.key.policy.colocate_with is None:
                if tasks := line.take(self._costs, len(line.tasks) // (2 * lanes)):
                    self._launch(lease, tasks)
                    return
            elif lease.open == 0 and line.key.alone > 0:
                run = self._arrays.get(line.key.alone)
                if run is not None and run.has_more:
                    self._launch_items(lease, run, run.take(self._costs, lanes))
                    return
        if lease.open == 0:
            self._mapper.release(lease.placement)

    # Hearing

    def hear(self, reports: Sequence[Report]) -> None:
        """Take a backend's reports; see `rhapsody.abc.Listener`. The hot path."""
        live = self._live
        fresh: list[Task] = []
        starts: list[int] = []
        ends: list[int] = []
        hungry: list[Lease] = []
        function: Any = None
        spent_ns = calls = 0
        for report in reports:
            number, attempt, state, started, ended, value, _, stdio, _ = report
            task = live.get(number)
            if task is None:
                continue
            if state is DONE and task.state is PLACED and task.attempt == attempt and type(task) is ComputeTask:
                del live[number]
                task.state = DONE
                task.value = value
                task.stdio = stdio
                fresh.append(task)
                starts.append(started)
                ends.append(ended)
                if task.function is not function:
                    if calls:
                        self._costs.learn(function, spent_ns, calls)
                    function, spent_ns, calls = task.function, 0, 0
                spent_ns += ended - started
                calls += 1
                self._leave(task.lease, hungry)
            else:
                self._hear_other(task, report, hungry)
        if calls:
            self._costs.learn(function, spent_ns, calls)
        if fresh:
            self._finish(fresh, starts, ends)
        self._cycle(hungry)

    @staticmethod
    def _leave(lease: Lease, hungry: list[Lease]) -> None:
        lease.open -= 1
        if lease.open <= lease.refill_at and not lease.hungry:
            lease.hungry = True
            hungry.append(lease)

    def _finish(self, tasks: list[Task], starts: list[int], ends: list[int]) -> None:
        """Settle tasks that were placed, ran and are done."""
        self._sink.entered(RUNNING, tasks, starts)
        self._sink.entered(DONE, tasks, ends)
        self._move(len(tasks), PLACED, DONE)
        self._ended += tasks
        for task in tasks:
            if task.links is not None:
                self._free_dependents(task)

    def _hear_other(self, task: Task, report: Report, hungry: list[Lease]) -> None:
        """Take whatever is not the plain end of a plain task."""
        if isinstance(task, ArrayTask):
            self._hear_items(task, report, hungry)
            return
        if task.attempt != report.attempt or task.state not in (PLACED, RUNNING):
            return  # fenced: not the current attempt
        if report.state is RUNNING:
            if task.state is PLACED:
                self._enter_running(task, report.started_ns)
            return
        self._leave(task.lease, hungry)
        if report.state is READY:
            task.lease.refill_at = 0
            self._take_back(task)
            return
        if report.started_ns and task.state is PLACED:
            self._enter_running(task, report.started_ns)
        task.value, task.stdio = report.value, report.stdio
        if report.state is DONE:
            self._costs.learn(getattr(task, "function", None), report.ended_ns - report.started_ns, 1)
        elif self._tried_again(task, report):
            return
        self._end(task, report.state, report.ended_ns or self._clock(), report.failure)

    def _enter_running(self, task: Task, started_ns: int) -> None:
        self._sink.entered(RUNNING, [task], started_ns)
        self._move(1, PLACED, RUNNING)
        task.state = RUNNING
        self.running[task.number] = task

    def _take_back(self, task: Task) -> None:
        """Queue a task again, at the front, that was launched and never started."""
        task.attempt -= 1
        self._move(1, task.state, READY)
        if self._closed:
            self._end(task, CANCELED, self._clock(), Failure(Cause.CANCELED, self._closed))
            return
        task.state = READY
        self._sink.entered(READY, [task], self._clock())
        line = self._line_of(task)
        line.tasks.appendleft(task)
        self._queue.push(line)

    def _tried_again(self, task: Task, report: Report) -> bool:
        """Queue a failed attempt's task once more where its policy says so; return whether it did."""
        failure = report.failure
        if self._closed or failure is None or report.state is CANCELED:
            return False
        policy = self._intake.retry_of(task)
        delay_s = policy.delay_before_next(task.attempt, failure) if policy is not None else None
        if delay_s is None and report.state is UNKNOWN and task.options.idempotent and task.attempt < _LOST_LIMIT:
            delay_s = 0.0
        if delay_s is None:
            return False
        self.running.pop(task.number, None)
        self._move(1, task.state, WAITING)
        task.state, task.value, task.stdio = WAITING, None, None
        if delay_s > 0:
            self._timers[task] = asyncio.get_running_loop().call_later(delay_s, self._wake, task)
        else:
            self._make_ready([task], self._clock())
        return True

    def _wake(self, task: Task) -> None:
        """Queue a task whose delay before the next attempt is over."""
        if self._timers.pop(task, None) is not None and task.state is WAITING:
            self._make_ready([task], self._clock())
            self._cycle()

    def _hear_items(self, task: ArrayTask, report: Report, hungry: list[Lease]) -> None:
        run = self._arrays.get(task.number)
        if run is None or report.items is None:
            return
        if task.state is PLACED and report.started_ns:
            task.state = RUNNING
            self.running[task.number] = task
        first, stop = report.items
        before = task.settled
        lease, again = run.hear(report, self._costs)
        moment = report.ended_ns or report.started_ns or self._clock()
        detail = report.failure.message if report.failure is not None else ""
        self._sink.items_entered(report.state, task, report.items, moment, detail)
        if report.state is READY:
            self._move(stop - first, PLACED, READY)
        elif report.state is not RUNNING:
            self._move(task.settled - before, PLACED, report.state)
        for start, end, delay_s in again:
            self._move(end - start, PLACED, WAITING)
            asyncio.get_running_loop().call_later(delay_s, self._wake_items, task, (start, end))
        if lease is not None:
            self._leave(lease, hungry)
        self._go_on_with(task, run)

    def _wake_items(self, task: ArrayTask, items: tuple[int, int]) -> None:
        run = self._arrays.get(task.number)
        if run is not None and not run.canceled:
            run.again(*items)
            self._move(items[1] - items[0], WAITING, READY)
            self._go_on_with(task, run)
            self._cycle()

    def _go_on_with(self, task: ArrayTask, run: ArrayRun) -> None:
        """Queue an array task that has items left; end one that has none."""
        if self._closed and run.has_more:
            run.cancel()
        if run.is_over:
            state, failure = run.outcome()
            self._end(task, state, self._clock(), failure)
        elif run.has_more:
            line = self._lines[task.number]
            if not line.tasks:
                line.tasks.append(task)
            self._queue.push(line)

    def broken(self, reason: str) -> None:
        """Fail everything: the runtime is gone; see `rhapsody.abc.Listener`."""
        self._closed = f"backend {self._backend.name} is gone: {reason}"
        self._notify(self._closed)
        for task in self.tasks:
            self._end(task, FAILED, self._clock(), Failure(Cause.LAUNCH, self._closed))
        self._cycle()

    # Ending

    def _end(self, task: Task, state: State, when_ns: int, failure: Failure | None) -> None:
        """Settle one task, and those that depend on it."""
        if self._live.pop(task.number, None) is None:
            return
        if isinstance(task, ArrayTask):
            self._arrays.pop(task.number, None)
            self._lines.pop(task.number, None)
        else:
            self._move(1, task.state, state)
        self.running.pop(task.number, None)
        if (timer := self._timers.pop(task, None)) is not None:
            timer.cancel()
        task.state, task.failure = state, failure
        self._sink.entered(state, [task], when_ns)
        self._ended.append(task)
        if state in (FAILED, UNKNOWN):
            self.failed.append(task)
        if task.links is not None:
            self._free_dependents(task)

    def _free_dependents(self, task: Task) -> None:
        """Make ready what waited for this task only; fail what needed it to be done."""
        dependents, task.links.dependents = task.links.dependents, []
        ready: list[Task] = []
        for dependent in dependents:
            if dependent.state is not WAITING:
                continue
            if task.state is not DONE and dependent.options.when_dependency_fails == "fail":
                self._end_for_dependency(dependent, task)
                continue
            dependent.links.waiting -= 1
            if dependent.links.waiting == 0:
                ready.append(dependent)
        self._make_ready(ready, self._clock())

    def _end_for_dependency(self, task: Task, dependency: Task) -> None:
        why = dependency.failure.message if dependency.failure is not None else ""
        text = f"its dependency {dependency.uid} ended {dependency.state}{': ' if why else ''}{why}"
        state = CANCELED if dependency.state is CANCELED else FAILED
        self._end(task, state, self._clock(), Failure(Cause.DEPENDENCY, text))

    def cancel(self, tasks: Iterable[Task], reason: str = "cancelled") -> None:
        """Cancel tasks that have not ended; those that run end when the backend says so."""
        attempts: list[tuple[int, int]] = []
        for task in tasks:
            if task.number not in self._live:
                continue
            if isinstance(task, ArrayTask) and task.number in self._arrays:
                run = self._arrays[task.number]
                run.cancel()
                attempts += [(task.number, attempt) for attempt in run.attempts()]
                self._go_on_with(task, run)
            elif task.state in (PLACED, RUNNING):
                attempts.append((task.number, task.attempt))
            else:
                self._end(task, CANCELED, self._clock(), Failure(Cause.CANCELED, f"{reason} before it ran"))
        self._cycle()
        if attempts:
            self._backend.cancel(attempts)

    def close(self, reason: str) -> None:
        """Take and launch nothing more; what waits is cancelled, what runs goes on."""
        if not self._closed:
            self._closed = reason
        self.cancel([task for task in self.tasks if task.state in (WAITING, READY)], reason)

    # The cycle

    def _cycle(self, hungry: Sequence[Lease] = ()) -> None:
        for lease in hungry:
            self._refill(lease)
        self._pump()
        if self._batch:
            self._sink.placed(self._batch, self._clock())
        self._conclude()

    def _conclude(self) -> None:
        """Write the journal, then launch, then tell: nobody hears of what could be forgotten."""
        try:
            self._sink.commit()
        except JournalError as exc:
            if self._stalled is None:
                self._notify(f"{exc}; nothing new starts until it can be written again")
            self._stalled = asyncio.get_running_loop().call_later(JOURNAL_RETRY_S, self._resume)
            return
        batch, self._batch = self._batch, []
        if batch:
            self._backend.launch(batch)
        ended, self._ended = self._ended, []
        for task in ended:
            watchers = task.watchers
            if watchers is not None:
                task.watchers = None
                for watcher in watchers if type(watchers) is list else (watchers,):
                    watcher(task)

    def _resume(self) -> None:
        """Try again after the journal could not be written."""
        stalled, self._stalled = self._stalled, None
        self._conclude()
        if self._stalled is None and stalled is not None:
            self._notify("the journal can be written again; going on")
            self._cycle()

    def _move(self, count: int, before: State, after: State) -> None:
        self.counts[before] -= count
        self.counts[after] += count


def _weight(task: Task) -> int:
    return len(task) if isinstance(task, ArrayTask) else 1


