"""From ready to launched: lines of ready tasks, leases of slots, and what goes to the backend next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhapsody.abc import Assignment
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.service import ReplicaTask
from rhapsody.model.task import ComputeTask, Task
from rhapsody.scheduling.arrays import ArrayRun
from rhapsody.scheduling.costs import Costs
from rhapsody.scheduling.queue import CHUNK_NS, CHUNKED, SINGLY, TIMED, Line, LineKey, ReadyQueue

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Sequence

    from rhapsody.abc import RecalledItems
    from rhapsody.model.resources import Placement
    from rhapsody.scheduling.horizon import Horizon
    from rhapsody.scheduling.intake import Intake
    from rhapsody.scheduling.mapper import Mapper

READY, PLACED = State.READY, State.PLACED


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

    def left(self, hungry: list[Lease]) -> None:
        """Note that an attempt was reported on; note the lease as hungry when it runs dry."""
        self.open -= 1
        if self.open <= self.refill_at and not self.hungry:
            self.hungry = True
            hungry.append(self)


class Placer:
    """Queues ready tasks and leases slots to them.

    Args:
        mapper: Binds requests to slots.
        intake: Knows each task's policies.
        counts: Tasks by state, kept here for READY and PLACED.
        refuse: Called with a task that cannot be placed and the exception that a user's policy raised.

    Attributes:
        costs: Learned durations.
        arrays: Array tasks that have not ended, by number.
        recalled: Items of array tasks that do not run, by number of the task, until that is queued.
        batch: What is to be launched.
        paused: Nothing is placed.
        horizon: The end of the allocation, where it is known; set before the first task joins.
    """

    def __init__(
        self, mapper: Mapper, intake: Intake, counts: Counter[State], refuse: Callable[[Task, Exception], None]
    ) -> None:
        self._mapper = mapper
        self._intake = intake
        self._counts = counts
        self._refuse = refuse
        self._queue = ReadyQueue()
        self._lines: dict[int, Line] = {}
        """Line of each array task."""
        self._sharing = False
        self._patience = 0
        self.nodes_changed()
        self.costs = Costs()
        self.arrays: dict[int, ArrayRun] = {}
        self.recalled: dict[int, RecalledItems] = {}
        self.batch: list[Assignment] = []
        self.paused = False
        self.horizon: Horizon | None = None

    # Queueing

    def join(self, tasks: Sequence[Task]) -> None:
        """Let ready tasks join their lines."""
        last: tuple[object, ...] = ()
        line: Line | None = None
        for task in tasks:
            kind = task.executable is None if type(task) is ComputeTask else task
            traits = (task.resources, task.options, task.priority, kind)
            if line is None or traits != last:
                if line is not None:
                    self._queue.push(line)
                line = self._line_of(task)
                last = traits
            line.tasks.append(task)
        if line is not None:
            self._queue.push(line)

    def join_front(self, task: Task) -> None:
        """Let a task that was given back go before those that came after it."""
        line = self._line_of(task)
        line.tasks.appendleft(task)
        self._queue.push(line)

    def join_items(self, task: ArrayTask) -> None:
        """Consider an array task again that has items left."""
        line = self._lines[task.number]
        if not line.tasks:
            line.tasks.append(task)
        self._queue.push(line)

    def close(self) -> None:
        """Warn nobody any more."""
        if self.horizon is not None:
            self.horizon.close()

    def nodes_changed(self) -> None:
        """Work out anew what follows from the number of cores."""
        self._patience = 2 * self._mapper.usable_cores + 16

    def leave(self, task: Task) -> None:
        """Forget an array task that has ended."""
        self.arrays.pop(task.number, None)
        self._lines.pop(task.number, None)

    def _line_of(self, task: Task) -> Line:
        policy = self._intake.policy_of(task)
        alone = CHUNKED
        if isinstance(task, ArrayTask):
            alone = task.number
            self.arrays[alone] = ArrayRun(task, self._intake.retry_of(task), self.recalled.pop(alone, None))
        elif task.resources.is_mpi or (isinstance(task, ComputeTask) and task.executable is not None):
            alone = SINGLY
        elif self.horizon is not None and task.options.duration_s is not None:
            alone = TIMED
        if policy.oversubscribe:
            self._sharing = True
        line = self._queue.line(LineKey(task.priority + policy.priority, task.resources, policy, alone))
        if alone > 0:
            self._lines[alone] = line
        return line

    # Placing

    def pump(self) -> None:
        """Place what fits, the most urgent first; a big one that waits is not overtaken for ever."""
        while not self.paused and self._has_room and self._walk():
            pass

    def _walk(self) -> bool:
        """Go through the lines once; return whether a task was placed that a line before it waits to join."""
        kept: list[Line] = []
        followers: list[tuple[Line, Task]] = []
        blocked: Line | None = None
        while (line := self._queue.pop()) is not None:
            companion = self._companion_of(line)
            if companion is not None and not self._is_placed(companion):
                followers.append((line, companion))
                continue
            launched = self._place(line)
            if launched:
                line.overtaken = 0
                if blocked is not None and self._delays(blocked, line):
                    blocked.overtaken += launched
            if line.tasks:
                kept.append(line)
                blocked = blocked or line
            else:
                self._queue.forget(line)
            if not self._has_room or (blocked is not None and blocked.overtaken > self._patience):
                break
        for line in (*kept, *(line for line, _ in followers)):
            self._queue.push(line)
        return any(self._is_placed(companion) for _, companion in followers)

    def _delays(self, blocked: Line, line: Line) -> bool:
        """Return whether what a line takes may be what a blocked one waits for: CPU tasks take no GPUs."""
        asked = blocked.key.request
        return line.key.request.gpus_per_rank > 0 or asked.ranks * asked.gpus_per_rank <= self._mapper.free_gpus

    @property
    def _has_room(self) -> bool:
        return self._mapper.free_cores > 0 or self._sharing

    def _place(self, line: Line) -> int:
        """Lease slots to a line as long as there are some; return how many."""
        launched = 0
        run = self.arrays.get(line.key.alone)
        lanes = self._lanes_for(line)
        while line.prune():
            if run is not None and not run.has_more:
                line.tasks.clear()
                break
            if self.horizon is not None and not self.horizon.admits(line):
                break
            try:
                placement = self._placement_for(line)
            except Exception as exc:  # noqa: BLE001 - a user's placement policy may raise anything
                self._refuse(line.tasks.popleft(), exc)
                continue
            if placement is None:
                break
            lease = Lease(placement, line)
            if run is not None:
                self._launch_items(lease, run, lanes)
            else:
                self._launch(lease, self._take(line, lanes))
            launched += 1
        return launched

    def _take(self, line: Line, lanes: int, ahead_ns: int = 0) -> list[Task]:
        """Return a line's next tasks for one worker; with a horizon, its first one was admitted just before."""
        share = len(line.tasks) // (2 * lanes)
        if self.horizon is None:
            return line.take(self.costs, share)
        return line.take(self.costs, share, max(1, min(CHUNK_NS, self.horizon.left_ns - ahead_ns)))

    def _lanes_for(self, line: Line) -> int:
        """Return how many of a line's requests the allocation holds at most, roughly."""
        return max(1, self._mapper.usable_cores // line.key.request.cores_per_rank)

    def _companion_of(self, line: Line) -> Task | None:
        """Return the task whose nodes a line's tasks shall share, while there is one."""
        companion = line.key.policy.colocate_with
        return None if companion is None or companion.is_final or companion is line.tasks[0] else companion

    def _is_placed(self, companion: Task) -> bool:
        """Return whether a task has nodes to share: it has not when one of them is lost, until it is tried again."""
        return companion.lease is not None and not self._is_lost(companion.lease)

    def _is_lost(self, lease: Lease) -> bool:
        lost = self._mapper.lost
        return bool(lost) and not lost.isdisjoint(slot.node for slot in lease.placement.slots)

    def _placement_for(self, line: Line) -> Placement | None:
        companion = self._companion_of(line)
        within = companion.lease.placement.nodes if companion is not None else None
        return self._mapper.place(line.key.request, line.key.policy, within)

    def _launch(self, lease: Lease, tasks: list[Task]) -> None:
        for task in tasks:
            task.state = PLACED
            task.attempt += 1
            task.lease = lease
        count = len(tasks)
        lease.open += count
        lease.refill_at = count // 2 if count > 1 else 0
        if type(tasks[0]) is not ReplicaTask:
            self._counts[READY] -= count
            self._counts[PLACED] += count
        if self.horizon is not None and lease.line.key.alone == SINGLY:
            self.horizon.started(tasks[0])
        self.batch.append(Assignment(lease.placement, tasks))

    def _launch_items(self, lease: Lease, run: ArrayRun, lanes: int) -> None:
        items = run.take(self.costs, lanes, math.inf if self.horizon is None else self.horizon.left_ns)
        task = run.task
        lease.open += 1
        task.lease = lease
        if task.state is READY:
            task.state = PLACED
        count = items[1] - items[0]
        self._counts[READY] -= count
        self._counts[PLACED] += count
        task.attempt = run.launched(items, lease)
        self.batch.append(Assignment(lease.placement, [task], items, task.attempt))

    def refill(self, leases: Sequence[Lease]) -> None:
        """Send more of the same to leases that run dry, or give their placements back."""
        if self.horizon is not None:
            self.horizon.look(self._queue)
        for lease in leases:
            lease.hungry = False
            may_go_on = not self.paused and self._queue.is_next(lease.line) and not self._is_lost(lease)
            if not (may_go_on and self._sent_more(lease)) and lease.open == 0:
                self._mapper.release(lease.placement)

    def _sent_more(self, lease: Lease) -> bool:
        line = lease.line
        lanes = self._lanes_for(line)
        if line.key.alone == CHUNKED and line.key.policy.colocate_with is None:
            ahead_ns = CHUNK_NS if lease.open else 0  # what is open was worth a chunk at most
            if self.horizon is not None and not self.horizon.admits(line, ahead_ns):
                return False
            tasks = self._take(line, lanes, ahead_ns)
            if tasks:
                self._launch(lease, tasks)
            return bool(tasks)
        run = self.arrays.get(line.key.alone)
        if run is None or not run.has_more or (self.horizon is not None and not self.horizon.admits(line)):
            return False
        self._launch_items(lease, run, lanes)
        return True
