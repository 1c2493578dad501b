"""The loop over tasks: accepted → ready → placed → running → ended, in batches.

One cycle does everything that an occasion (a submission, a batch of reports, a timer) brings: it settles what ended,
makes dependents ready, places what fits, writes the journal, launches, and only then tells who waits.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from rhapsody.abc import NO_EDGES
from rhapsody.errors import BackendError, JournalError, SessionClosedError
from rhapsody.model.ai import AITask
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure
from rhapsody.model.service import Gate, ReplicaTask
from rhapsody.model.task import ComputeTask, Task
from rhapsody.scheduling.asking import Asking, is_queued
from rhapsody.scheduling.graph import failure_by, link, tell_dependents
from rhapsody.scheduling.horizon import Horizon
from rhapsody.scheduling.intake import SLICE, Intake, Plan, are_replicas, weight_of
from rhapsody.scheduling.items import Items, Ledger
from rhapsody.scheduling.outbox import Outbox
from rhapsody.scheduling.placer import Lease, Placer
from rhapsody.scheduling.resumption import recall, take_over
from rhapsody.scheduling.retry import delay_before_next, delay_when_lost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.abc import Backend, EventSink, History, Recalled, Report
    from rhapsody.model.policy import Policy
    from rhapsody.scheduling.mapper import Mapper

WAITING, READY, PLACED, RUNNING = State.WAITING, State.READY, State.PLACED, State.RUNNING
DONE, FAILED, CANCELED, UNKNOWN = State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN
_NEVER = object()
"""No task's function."""


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
        self._backend, self._mapper, self._sink = backend, mapper, sink
        self._clock, self._notify = clock, notify
        self._intake = Intake(backend, mapper, policy)
        self._submitting = asyncio.Lock()
        self._live: dict[int, Task] = {}
        self._loose: deque[Task] = deque()
        """Tasks that have ended, whose dependents do not know yet."""
        self._timers: dict[Task, asyncio.TimerHandle] = {}
        self._returned: list[Task] = []
        """Tasks that were launched and given back, to be queued at the front."""
        self._unwanted: set[int] = set()
        """Numbers of placed tasks that were cancelled: they are not launched again."""
        self._closed, self._gone = "", False
        self._outbox = Outbox(sink, backend, notify, self._cycle)
        self.history: History | None = None
        """What earlier sessions of the run have done, when it is resumed."""
        self.counts: Counter[State] = Counter()
        """Tasks by state; items of array tasks count each."""
        self.running: dict[int, Task] = {}
        """Tasks seen RUNNING, in the order in which they were seen."""
        self.on_failure: Callable[[Task], object] = lambda _task: None
        """Called with each task that ended FAILED or UNKNOWN."""
        self._placer = Placer(mapper, self._intake, self.counts, self._refuse)
        ledger = Ledger(self.running, self._move, self._end, self._cycle)
        self._items = Items(self._placer, sink, clock, ledger)
        self._asking = Asking(sink, self._live, ledger, self._settle, self._tell_of)

    @property
    def tasks(self) -> list[Task]:
        """Tasks that have not ended; replicas of services are none."""
        return [task for task in self._live.values() if type(task) is not ReplicaTask]

    def finish_by(self, end_ns: int) -> None:
        """Start nothing that is expected to end after a moment on the session's clock; called before any submission.

        Tasks with `warn_s` are warned so many seconds before it.
        """
        self._placer.horizon = Horizon(end_ns, self._clock, self._placer.costs, self._backend.warn, self._notify)

    # Taking in

    async def submit(self, tasks: Sequence[Task]) -> None:
        """Accept tasks, all or none; the loop gets its turn in between.

        Raises:
            SpecError: One is wrong; none was accepted.
            SessionClosedError: The session takes no more.
            BackendError: The runtime is gone.
        """
        plan = Plan(tasks)
        async with self._submitting:
            self._require_open()
            await self._intake.check_all(tasks, plan, self._live.keys())
            if self.history is not None and plan.edges:
                plan.recalled = await recall(self.history, tasks, plan.edges)
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
            finally:
                if self._closed:  # meanwhile
                    self.cancel([task for task in tasks if task.state in (WAITING, READY)], self._closed)
        await self._outbox.written()

    def _require_open(self) -> None:
        if self._gone:
            raise BackendError(f"no more tasks are taken: {self._closed}")
        if self._closed:
            raise SessionClosedError(f"no more tasks are taken: {self._closed}")
        if self._outbox.stalled:
            raise JournalError("no tasks are taken while the journal cannot be written; see the message before")

    def _accept(self, tasks: Sequence[Task], plan: Plan) -> None:
        now = self._clock()
        for task in tasks:
            task.state = WAITING
        self._live.update({task.number: task for task in tasks})
        self.counts[WAITING] += sum(map(weight_of, tasks))
        known = plan.recalled
        if self.history is not None and not plan.edges and not are_replicas(tasks):  # edges: done for the whole
            known = self.history.recall(tasks, NO_EDGES)
        recalled = [(task, known[task]) for task in tasks if task in known] if known else []
        is_simple = not plan.edges and not plan.gates and not recalled
        self._sink.accepted(tasks, now, edges=plan.edges, ready=is_simple)
        if is_simple:
            self._queue(tasks)
        else:
            self._settle_recalled(recalled, now)
            left = [task for task in tasks if task.state is WAITING]
            free = [task for task in left if self._is_free(task, plan.awaited_by(task))]
            self._make_ready(free, now)
        self._cycle()

    def _settle_recalled(self, recalled: Sequence[tuple[Task, Recalled]], now: int) -> None:
        """Settle tasks that earlier sessions have done, or may have; the others go on from there."""
        done, lost = take_over(recalled, self._placer.recalled, self._sink, now)
        for task in done:
            del self._live[task.number]
            task.state = DONE
        self._move(len(done), WAITING, DONE)
        self._outbox.ended += done
        self._loose.extend(task for task in done if task.links is not None)
        for task, known in lost:
            self._end(task, known.state, now, known.failure)

    def _is_free(self, task: Task, dependencies: Sequence[Task]) -> bool:
        """Link a task to its dependencies; return whether it may run now."""
        if not dependencies:
            return True
        if task.options.when_dependency_fails == "fail":
            for dependency in dependencies:
                if dependency.is_final and dependency.state is not DONE:
                    self._end_for_dependency(task, dependency)
                    return False
        return not link(task, dependencies)

    def _make_ready(self, tasks: Sequence[Task], now: int) -> None:
        """Let tasks that wait for nothing any more join their lines."""
        if tasks:
            self._sink.entered(READY, tasks, now)
            self._queue(tasks)

    def _queue(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            task.state = READY
        self._placer.join(self._asking.join(tasks))
        self._move(sum(map(weight_of, tasks)), WAITING, READY)
        for task in tasks:
            if type(task) is ArrayTask:
                self._items.queued(task)

    def _refuse(self, task: Task, exc: Exception) -> None:
        """Fail a task that a user's policy cannot place, or that fits no more."""
        self._fail_unplaced(task, f"it could not be placed: {type(exc).__name__}: {exc}", exc)

    def _fail_unplaced(self, task: Task, why: str, exc: Exception | None = None) -> None:
        """Fail a task that is not launched; of an array task, the items that are not."""
        failure = Failure(Cause.LAUNCH, why, exc)
        run = self._items.run_of(task)
        if run is not None:
            self._items.refuse(run, failure)
        else:
            self._end(task, FAILED, self._clock(), failure)

    # Hearing

    def hear(self, reports: Sequence[Report]) -> None:  # noqa: C901, PLR0915 - a call per task would cost more than the rest
        """Take a backend's reports; see `rhapsody.abc.Listener`. The hot path."""
        live = self._live
        fresh: list[Task] = []
        starts: list[int] = []
        ends: list[int] = []
        hungry: list[Lease] = []
        function: Any = _NEVER
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
                    if function is None:  # executables are learned one by one
                        self._placer.costs.learn_end(task, ended - started)
                        function, calls = _NEVER, -1
                spent_ns += ended - started
                calls += 1
                task.lease.left(hungry)
            else:
                self._hear_other(task, report, hungry)
        if calls:
            self._placer.costs.learn(function, spent_ns, calls)
        if fresh:
            self._finish(fresh, starts, ends)
        self._asking.hear()
        self._cycle(hungry)

    def _finish(self, tasks: list[Task], starts: list[int], ends: list[int]) -> None:
        """Settle tasks that were placed, ran and are done."""
        self._sink.ran(tasks, starts, ends)
        self._move(len(tasks), PLACED, DONE)
        self._tell_of(tasks)

    def _tell_of(self, tasks: list[Task]) -> None:
        """Let go of tasks that are DONE, which is recorded."""
        self._outbox.ended += tasks
        if self._unwanted:
            self._unwanted.difference_update(task.number for task in tasks)
        self._loose.extend(task for task in tasks if task.links is not None)

    def _hear_other(self, task: Task, report: Report, hungry: list[Lease]) -> None:
        """Take whatever is not the plain end of a plain task."""
        if isinstance(task, ArrayTask):
            self._items.hear(task, report, hungry)
        elif type(task) is AITask:
            self._asking.note(task, report)
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
        if type(task) is ReplicaTask:
            pass  # nothing is learned from it, and its supervisor decides whether there is another
        elif report.state is DONE:
            self._placer.costs.learn_end(task, report.ended_ns - report.started_ns)
        elif self._tried_again(task, report):
            return
        self._end(task, report.state, report.ended_ns or self._clock(), report.failure)

    def _enter_running(self, task: Task, started_ns: int) -> None:
        if task.state is not PLACED:
            return
        self._sink.entered(RUNNING, [task], started_ns)
        self._move(weight_of(task), PLACED, RUNNING)
        task.state = RUNNING
        if type(task) is not ReplicaTask:
            self.running[task.number] = task

    def _take_back(self, task: Task) -> None:
        """Queue a task again, at the front, that was launched and never started."""
        if self._closed or task.number in self._unwanted:
            reason = self._closed or "cancelled before it ran"
            self._end(task, CANCELED, self._clock(), Failure(Cause.CANCELED, reason))
            return
        self._move(weight_of(task), task.state, READY)
        task.attempt -= 1
        task.state = READY
        self._sink.entered(READY, [task], self._clock())
        self._returned.append(task)

    def _tried_again(self, task: Task, report: Report) -> bool:
        """Queue a failed attempt's task once more where its policy says so; return whether it did."""
        failure = report.failure
        if self._closed or failure is None or report.state is CANCELED or task.number in self._unwanted:
            return False
        delay_s = delay_before_next(self._intake.retry_of(task), task.attempt, failure)
        if delay_s is None:
            delay_s = delay_when_lost(report.state, task.attempt, idempotent=task.options.idempotent)
        if delay_s is None:
            return False
        self.running.pop(task.number, None)
        self._move(1, task.state, WAITING)
        ended_ns = report.ended_ns or self._clock()
        task.failure = failure  # for the sink
        self._sink.entered(report.state, [task], ended_ns)
        task.state, task.value, task.stdio, task.failure = WAITING, None, None, None
        self._sink.entered(WAITING, [task], ended_ns)
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

    def broken(self, reason: str) -> None:
        """Fail everything: the runtime is gone; see `rhapsody.abc.Listener`."""
        self._closed = f"backend {self._backend.name} is gone: {reason}"
        self._gone = self._items.closed = True
        self._notify(self._closed)
        self._outbox.launches = []
        asked = [task for task in self._live.values() if type(task) is AITask and task.state in (PLACED, RUNNING)]
        self._backend.cancel([(task.number, task.attempt) for task in asked])  # they do not end with the runtime
        for task in list(self._live.values()):
            self._end(task, FAILED, self._clock(), Failure(Cause.LAUNCH, self._closed))
        self._cycle()

    def nodes_lost(self, nodes: Sequence[int], reason: str) -> None:
        """Go on with the nodes that are left; fail what fits no more; see `rhapsody.abc.Listener`."""
        fresh = self._mapper.withdraw(nodes)
        if not fresh or self._gone:
            return
        if not self._mapper.nodes_left:
            self.broken(f"all its nodes are lost ({reason})")
            return
        self._intake.forget_what_fits()
        self._placer.nodes_changed()
        loss = f"{self._mapper.names_lost(fresh)} ({reason})"
        left, cores = self._mapper.nodes_left, self._mapper.usable_cores
        self._notify(
            f"{loss}; {left} {'node' if left == 1 else 'nodes'} with {cores} {'core' if cores == 1 else 'cores'}"
            f" {'is' if left == 1 else 'are'} left"
        )
        for task, refusal in list(self._intake.unfit(self._live.values())):
            self._fail_unplaced(task, f"it fits no more since {loss}: {refusal}")
        self._cycle()

    # Ending

    def _end(self, task: Task, state: State, when_ns: int, failure: Failure | None) -> None:
        """Settle one task, and those that depend on it."""
        if self._live.pop(task.number, None) is None:
            return
        run = self._items.run_of(task)
        if run is not None:
            self._items.drop(run, state)
            self._placer.leave(task)
        else:
            self._move(weight_of(task), task.state, state)
        self.running.pop(task.number, None)
        self._unwanted.discard(task.number)
        if (timer := self._timers.pop(task, None)) is not None:
            timer.cancel()
        task.state, task.failure = state, failure
        self._sink.entered(state, [task], when_ns)
        self._outbox.ended.append(task)
        if state in (FAILED, UNKNOWN) and type(task) is not ReplicaTask:
            self.on_failure(task)
        if task.links is not None:
            self._loose.append(task)

    def watch_gate(self, gate: Gate) -> None:
        """Let tasks of this session wait for a service from now on."""
        gate.state = WAITING
        self._intake.gates.add(gate)

    def turn_gate(self, gate: Gate, state: State, failure: Failure | None = None) -> None:
        """Take note of how a service is: DONE frees what waits for it, FAILED and CANCELED end that."""
        gate.state, gate.failure = state, failure
        if gate.is_final and gate.links is not None:
            self._loose.append(gate)
        self._cycle()

    def _free_dependents(self) -> None:
        """Make ready what waited only for tasks that have ended; fail what needed one of them to be done."""
        while self._loose:
            ready: list[Task] = []
            while self._loose:
                task = self._loose.popleft()
                freed, stuck = tell_dependents(task)
                ready += freed
                for dependent in stuck:
                    self._end_for_dependency(dependent, task)
            self._make_ready(ready, self._clock())

    def _end_for_dependency(self, task: Task, dependency: Task) -> None:
        state = CANCELED if dependency.state is CANCELED else FAILED
        self._end(task, state, self._clock(), failure_by(dependency))

    def cancel(self, tasks: Iterable[Task], reason: str = "cancelled") -> None:
        """Cancel tasks that have not ended; those that run end when the backend says so."""
        attempts: list[tuple[int, int]] = []
        for task in tasks:
            if task.number not in self._live:
                continue
            run = self._items.run_of(task)
            if run is not None:
                attempts += self._items.cancel(run)
            elif task.state in (PLACED, RUNNING):
                self._unwanted.add(task.number)
                attempts.append((task.number, task.attempt))
            else:
                self._end(task, CANCELED, self._clock(), Failure(Cause.CANCELED, f"{reason} before it ran"))
        self._cycle()
        if attempts:
            self._outbox.cancel(attempts)

    def close(self, reason: str) -> None:
        """Take and launch nothing more; what waits is cancelled, what runs goes on."""
        if not self._closed:
            self._closed = reason
        self._items.closed = True
        self._items.go_on_with_all()
        self.cancel([task for task in self._live.values() if task.state in (WAITING, READY) or is_queued(task)], reason)

    def _cycle(self, hungry: Sequence[Lease] = ()) -> None:
        placer = self._placer
        while self._returned:
            placer.join_front(self._returned.pop())
        self._free_dependents()
        placer.paused = bool(self._closed) or self._outbox.stalled
        placer.refill(hungry)
        placer.pump()
        while self._loose:  # of tasks that could not be placed
            self._free_dependents()
            placer.pump()
        launches, placer.batch = placer.batch, []
        if not placer.paused:
            launches += self._asking.take()
        if launches:
            self._sink.placed(launches, self._clock())
            self._outbox.launches += launches
        self._outbox.flush()

    def look_at_journal(self) -> None:
        """Notice, without any other occasion, that the journal cannot be brought to disk."""
        self._outbox.flush()

    def abandon(self, reason: str) -> None:
        """Settle what is left once the backend is closed, even when the journal cannot be written: nobody hangs."""
        for task in list(self._live.values()):
            self._end(task, UNKNOWN, self._clock(), Failure(Cause.LOST, reason))
        self._placer.close()
        self._free_dependents()
        self._outbox.abandon()

    def _move(self, count: int, before: State, after: State) -> None:
        self.counts[before] -= count
        self.counts[after] += count
