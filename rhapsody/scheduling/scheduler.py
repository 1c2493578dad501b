"""The loop over tasks: accepted → ready → placed → running → ended, in batches.

One cycle does everything that an occasion (a submission, a batch of reports, a timer) brings: it settles what ended,
makes dependents ready, places what fits, writes the journal, launches, and only then tells who waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from rhapsody.errors import JournalError, SessionClosedError
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.task import ComputeTask, Task
from rhapsody.scheduling.graph import link
from rhapsody.scheduling.intake import Intake, Plan
from rhapsody.scheduling.placer import Lease, Placer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.abc import Backend, EventSink, Report
    from rhapsody.model.policy import Policy
    from rhapsody.scheduling.mapper import Mapper

SLICE = 2048
"""Tasks that are taken in before the event loop gets its turn."""
JOURNAL_RETRY_S = 1.0
_LOST_LIMIT = 3
"""Launches of an idempotent task whose end nobody saw."""
WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN


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

    def __init__(
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
        self._live: dict[int, Task] = {}
        self._ended: list[Task] = []
        self._loose: deque[Task] = deque()
        """Tasks that have ended, whose dependents do not know yet."""
        self._timers: dict[Task, asyncio.TimerHandle] = {}
        self._closed = ""
        self._stalled: asyncio.TimerHandle | None = None
        self.counts: Counter[State] = Counter()
        """Tasks by state; items of array tasks count each."""
        self.running: dict[int, Task] = {}
        """Tasks seen RUNNING, in the order in which they were seen."""
        self.failed: list[Task] = []
        """Tasks that ended as FAILED or UNKNOWN, for the session to take."""
        self._placer = Placer(mapper, self._intake, self.counts, self._refuse)

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
        for task in tasks:
            task.state = READY
        self._placer.join(tasks)
        self._move(sum(map(_weight, tasks)), WAITING, READY)
        self._sink.entered(READY, tasks, now)
        for task in tasks:
            if type(task) is ArrayTask and not task.items:
                self._go_on_with(task)

    def _refuse(self, task: Task, exc: Exception) -> None:
        """Fail a task that a user's policy cannot place."""
        text = f"it could not be placed: {type(exc).__name__}: {exc}"
        self._end(task, FAILED, self._clock(), Failure(Cause.LAUNCH, text, exc))

    # Hearing

    def hear(self, reports: Sequence[Report]) -> None:  # noqa: PLR0915 - a call per task would cost more than the rest
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
                        self._placer.costs.learn(function, spent_ns, calls)
                    function, spent_ns, calls = task.function, 0, 0
                spent_ns += ended - started
                calls += 1
                task.lease.left(hungry)
            else:
                self._hear_other(task, report, hungry)
        if calls:
            self._placer.costs.learn(function, spent_ns, calls)
        if fresh:
            self._finish(fresh, starts, ends)
        self._cycle(hungry)

    def _finish(self, tasks: list[Task], starts: list[int], ends: list[int]) -> None:
        """Settle tasks that were placed, ran and are done."""
        self._sink.entered(RUNNING, tasks, starts)
        self._sink.entered(DONE, tasks, ends)
        self._move(len(tasks), PLACED, DONE)
        self._ended += tasks
        self._loose.extend(task for task in tasks if task.links is not None)

    def _hear_other(self, task: Task, report: Report, hungry: list[Lease]) -> None:
        """Take whatever is not the plain end of a plain task."""
        if isinstance(task, ArrayTask):
            self._hear_items(task, report, hungry)
        elif task.attempt != report.attempt or task.state not in (PLACED, RUNNING):
            return  # fenced: not the current attempt
        elif report.state is RUNNING:
            self._enter_running(task, report.started_ns)
        elif report.state is READY:
            task.lease.left(hungry)
            task.lease.refill_at = 0
            self._take_back(task)
        else:
            task.lease.left(hungry)
            self._settle(task, report)

    def _settle(self, task: Task, report: Report) -> None:
        """Take the end of an attempt."""
        if report.started_ns:
            self._enter_running(task, report.started_ns)
        task.value, task.stdio = report.value, report.stdio
        if report.state is DONE:
            self._placer.costs.learn(getattr(task, "function", None), report.ended_ns - report.started_ns, 1)
        elif self._tried_again(task, report):
            return
        self._end(task, report.state, report.ended_ns or self._clock(), report.failure)

    def _enter_running(self, task: Task, started_ns: int) -> None:
        if task.state is not PLACED:
            return
        self._sink.entered(RUNNING, [task], started_ns)
        self._move(1, PLACED, RUNNING)
        task.state = RUNNING
        self.running[task.number] = task

    def _take_back(self, task: Task) -> None:
        """Queue a task again, at the front, that was launched and never started."""
        task.attempt -= 1
        if self._closed:
            self._end(task, CANCELED, self._clock(), Failure(Cause.CANCELED, self._closed))
            return
        self._move(1, task.state, READY)
        task.state = READY
        self._sink.entered(READY, [task], self._clock())
        self._placer.join_front(task)

    def _tried_again(self, task: Task, report: Report) -> bool:
        """Queue a failed attempt's task once more where its policy says so; return whether it did."""
        delay_s = None if self._closed or report.state is CANCELED else self._delay_before_next(task, report)
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

    def _delay_before_next(self, task: Task, report: Report) -> float | None:
        failure = report.failure
        lost = report.state is UNKNOWN
        if failure is None or (lost and not task.options.idempotent):
            return None
        policy = self._intake.retry_of(task)
        if policy is None:
            return 0.0 if lost and task.attempt < _LOST_LIMIT else None
        try:
            return policy.delay_before_next(task.attempt, failure)
        except Exception as exc:  # noqa: BLE001 - a user's retry policy may raise anything
            self._notify(f"the retry policy of task {task.uid} failed, so it is not tried again: {exc!r}")
            return None

    def _wake(self, task: Task) -> None:
        """Queue a task whose delay before the next attempt is over."""
        if self._timers.pop(task, None) is not None and task.state is WAITING:
            self._make_ready([task], self._clock())
            self._cycle()

    def _hear_items(self, task: ArrayTask, report: Report, hungry: list[Lease]) -> None:
        run = self._placer.arrays.get(task.number)
        if run is None or report.items is None:
            return
        if task.state is PLACED and report.started_ns:
            task.state = RUNNING
            self.running[task.number] = task
        first, stop = report.items
        before = task.settled
        lease, again = run.hear(report, self._placer.costs)
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
            lease.left(hungry)
        self._go_on_with(task)

    def _wake_items(self, task: ArrayTask, items: tuple[int, int]) -> None:
        run = self._placer.arrays.get(task.number)
        if run is not None and not run.canceled:
            run.again(*items)
            self._move(items[1] - items[0], WAITING, READY)
            self._go_on_with(task)
            self._cycle()

    def _go_on_with(self, task: ArrayTask) -> None:
        """Queue an array task that has items left; end one that has none."""
        run = self._placer.arrays[task.number]
        if self._closed and run.has_more:
            run.cancel()
        if run.is_over:
            state, failure = run.outcome()
            self._end(task, state, self._clock(), failure)
        elif run.has_more:
            self._placer.join_items(task)

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
            self._placer.leave(task)
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
            self._loose.append(task)

    def _free_dependents(self) -> None:
        """Make ready what waited only for tasks that have ended; fail what needed one of them to be done."""
        ready: list[Task] = []
        while self._loose:
            self._tell_dependents(self._loose.popleft(), ready)
        self._make_ready(ready, self._clock())

    def _tell_dependents(self, task: Task, ready: list[Task]) -> None:
        dependents, task.links.dependents = task.links.dependents, []
        for dependent in dependents:
            if dependent.state is not WAITING:
                continue
            if task.state is not DONE and dependent.options.when_dependency_fails == "fail":
                self._end_for_dependency(dependent, task)
                continue
            dependent.links.waiting -= 1
            if dependent.links.waiting == 0:
                ready.append(dependent)

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
            if isinstance(task, ArrayTask) and task.number in self._placer.arrays:
                run = self._placer.arrays[task.number]
                run.cancel()
                attempts += [(task.number, attempt) for attempt in run.attempts()]
                self._go_on_with(task)
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
        self._free_dependents()
        placer = self._placer
        placer.paused = bool(self._closed) or self._stalled is not None
        placer.refill(hungry)
        placer.pump()
        if placer.batch:
            self._sink.placed(placer.batch, self._clock())
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
        batch, self._placer.batch = self._placer.batch, []
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
