"""What is looked at before tasks are accepted; submission is all or none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NoReturn

from rhapsody.errors import SpecError, unknown_name
from rhapsody.model.ai import AITask
from rhapsody.model.array import ArrayTask
from rhapsody.model.event import State
from rhapsody.model.policy import Policy, Retry
from rhapsody.model.resources import Resources
from rhapsody.model.service import ReplicaTask
from rhapsody.model.task import DEFAULT_OPTIONS, ComputeTask, Task, require_retry
from rhapsody.scheduling.graph import dependencies_of, has_arguments, require_acyclic, require_known
from rhapsody.scheduling.placement import PLACEMENT_POLICIES

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rhapsody.abc import Backend, Recalled, RetryPolicy
    from rhapsody.model.service import Gate
    from rhapsody.scheduling.mapper import Mapper

SLICE = 2048
"""Tasks that are taken in before the event loop gets its turn."""
NEW = State.NEW
_UNDER_WAY = frozenset({State.PLACED, State.RUNNING})
_POLICIES_KEPT = 4096
_KINDS = frozenset({ComputeTask, ArrayTask, ReplicaTask, AITask})


def weight_of(task: Task) -> int:
    """Return as how many tasks it counts: by items where it has some; replicas of services are no tasks."""
    if isinstance(task, ArrayTask):
        return len(task)
    return 0 if type(task) is ReplicaTask else 1


def are_replicas(tasks: Sequence[Task]) -> bool:
    """Return whether a submission is of replicas of services, which come by themselves."""
    return bool(tasks) and type(tasks[0]) is ReplicaTask


class Plan:
    """What was found out about one submission.

    Attributes:
        numbers: Of its tasks.
        uids: That users gave.
        edges: Dependencies of the tasks that have any.
        gates: Of the services that tasks need, those that need any.
        companions: Tasks that others shall be placed beside, each with one of those.
        recalled: What earlier sessions of the run know of tasks.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.numbers: Collection[int] = {task.number for task in tasks if isinstance(task, Task)}
        self.uids: set[str] = set()
        self.edges: dict[Task, Sequence[Task]] = {}
        self.gates: dict[Task, Sequence[Gate]] = {}
        self.companions: dict[Task, Task] = {}
        self.recalled: dict[Task, Recalled] = {}

    def awaited_by(self, task: Task) -> Sequence[Task]:
        """Return what a task waits for: other tasks, and services."""
        return [*self.edges.get(task, ()), *self.gates.get(task, ())]


def _refuse(task: Task) -> NoReturn:
    if type(task) not in _KINDS:
        raise SpecError(f"submit() takes tasks, not {task!r}; make a ComputeTask of it")
    raise SpecError(f"task {task.uid} was submitted before; make a new {type(task).__name__} to run it again")


class Intake:
    """Checks tasks against the session that shall run them.

    Args:
        backend: Asked about executables and MPI.
        mapper: Asked what can ever fit.
        policy: The session's default policy.
    """

    def __init__(self, backend: Backend, mapper: Mapper, policy: Policy) -> None:
        self._backend = backend
        self._mapper = mapper
        self._default = policy
        self._effective: dict[Policy | None, Policy] = {}
        self._usual: Resources | None = None
        """What was last found to fit, under the session's policy: the next submission most often asks for the same."""
        self.uids: set[str] = set()
        """Given uids of all tasks that were accepted, ended ones too."""
        self.gates: set[Gate] = set()
        """Of the session's services, ended ones too."""
        self._check_policy(policy, "the session's policy")

    def forget_what_fits(self) -> None:
        """Look anew at what the next submission asks for: less can be had than before."""
        self._usual = None

    def unfit(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, str]]:
        """Yield tasks that fit no more, each with the reason; of those under way, array tasks only: items may wait."""
        last: tuple[Resources, Policy | None] | None = None
        refusal: str | None = None
        for task in tasks:
            if type(task) is AITask or (task.state in _UNDER_WAY and not isinstance(task, ArrayTask)):
                continue
            asked = task.resources, task.options.policy
            if last is None or asked[0] is not last[0] or asked[1] is not last[1]:
                refusal = self._mapper.refusal(task.resources, self.policy_of(task))
                last = asked
            if refusal is not None:
                yield task, refusal

    def policy_of(self, task: Task) -> Policy:
        """Return the task's policy with what it leaves open taken from the session's."""
        return self._policy_over(task.options.policy)

    def retry_of(self, task: Task) -> RetryPolicy | None:
        """Return the rule that says whether a failed attempt is followed by another."""
        chosen = task.options.retry if task.options.retry is not None else self.policy_of(task).retry
        return Retry(attempts=chosen) if isinstance(chosen, int) else chosen

    def _policy_over(self, policy: Policy | None) -> Policy:
        effective = self._effective.get(policy)
        if effective is None:
            effective = self._default if policy is None else policy.over(self._default)
            if len(self._effective) >= _POLICIES_KEPT:
                self._effective.clear()
            if effective.colocate_with is None:  # else the task would live as long as the session
                self._effective[policy] = effective
        return effective

    async def check_all(self, tasks: Sequence[Task], plan: Plan, live: Collection[int]) -> None:
        """Look at a submission; the event loop gets its turn in between.

        Args:
            tasks: All of it.
            plan: Takes what is found out.
            live: Numbers of the session's tasks that have not ended.

        Raises:
            SpecError: One task is wrong; the text names it.
        """
        for first in range(0, len(tasks), SLICE):
            self.check(tasks[first : first + SLICE], plan)
            if len(tasks) > SLICE:
                await asyncio.sleep(0)
        self.check_whole(tasks, plan, live)

    def check(self, tasks: Sequence[Task], plan: Plan) -> None:
        """Look at a part of a submission.

        Raises:
            SpecError: One task is wrong; the text names it.
        """
        last: tuple[Resources | None, Policy | None] = (self._usual, None)
        for task in tasks:
            if task.__class__ not in _KINDS or task.state is not NEW:
                _refuse(task)
            options = task.options
            if task.resources is not last[0] or options.policy is not last[1]:
                self._check_request(task, plan)
                last = (task.resources, options.policy)
            if task.given_uid is not None:
                self._check_uid(task.given_uid, plan)
            if task.__class__ is AITask or (
                isinstance(task, ComputeTask) and (task.executable or options.cwd or task.resources.is_mpi)
            ):
                self._backend.check(task)
                options = task.options  # of a model request, what serves the model has been found out
            if (options is not DEFAULT_OPTIONS or has_arguments(task)) and (dependencies := dependencies_of(task)):
                plan.edges[task] = dependencies
            if options.needs:
                plan.gates[task] = options.needs

    def check_whole(self, tasks: Sequence[Task], plan: Plan, live: Collection[int]) -> None:
        """Look at what only the whole submission shows: repetitions, unknown dependencies, cycles.

        Raises:
            SpecError: Something is wrong; the text says what.
        """
        if len(plan.numbers) != len(tasks):
            seen: set[int] = set()
            twice = next(task for task in tasks if task.number in seen or seen.add(task.number))  # type: ignore[func-returns-value]
            raise SpecError(f"task {twice.uid} is in the list twice")
        for companion, task in plan.companions.items():
            if companion.state is NEW and companion.number not in plan.numbers:
                raise SpecError(
                    f"the policy of task {task.uid}: colocate_with={companion.uid}, which was not submitted;"
                    " submit both in one list, or that one first"
                )
        for task, dependencies in plan.edges.items():
            require_known(task, dependencies, plan.numbers, live)
        if plan.edges:
            require_acyclic(plan.edges)
        for task, gates in plan.gates.items():
            self._require_started(task, gates)

    def _require_started(self, task: Task, gates: Iterable[Gate]) -> None:
        for gate in gates:
            if gate not in self.gates:
                raise SpecError(
                    f"task {task.uid} needs the service {gate.name!r}, which was not started in this session; first"
                    " `await session.start(service)`"
                )

    def _check_uid(self, uid: str, plan: Plan) -> None:
        if uid in self.uids or uid in plan.uids:
            raise SpecError(f"uid {uid!r} was used before in this session; uids are unique, also after a task's end")
        plan.uids.add(uid)

    def _check_request(self, task: Task, plan: Plan) -> None:
        if not isinstance(task.resources, Resources):
            raise SpecError(f"task {task.uid}: resources={task.resources!r} must be Resources(…)")
        own = task.options.policy
        if own is not None:
            self._check_policy(own, f"the policy of task {task.uid}")
            if own.routing is not None:
                raise SpecError(f"task {task.uid}: routing is the session's: Session(policy=Policy(routing=…))")
        policy = self.policy_of(task)
        if policy.colocate_with is not None:
            plan.companions.setdefault(policy.colocate_with, task)
        try:
            self._mapper.check(task.resources, policy)
        except SpecError as exc:
            raise SpecError(f"task {task.uid}: {exc}") from exc
        if own is None and policy.colocate_with is None:
            self._usual = task.resources

    def _check_policy(self, policy: Policy, where: str) -> None:
        if not isinstance(policy, Policy):
            raise SpecError(f"{where} is {policy!r}; it must be Policy(…)")
        if policy.backend is not None and policy.backend != self._backend.name:
            raise SpecError(f"{where}: {unknown_name('backend', policy.backend, [self._backend.name])}")
        placement = policy.placement
        if isinstance(placement, str) and placement not in PLACEMENT_POLICIES:
            raise SpecError(f"{where}: {unknown_name('placement policy', placement, PLACEMENT_POLICIES)}")
        if not (placement is None or isinstance(placement, str) or hasattr(placement, "choose")):
            raise SpecError(f"{where}: placement={placement!r} has no choose(); see rhapsody.abc.PlacementPolicy")
        require_retry(policy.retry, f"{where}: ")
        if type(policy.priority) is not int:
            raise SpecError(f"{where}: priority={policy.priority!r} must be a whole number")
        if policy.colocate_with is not None and not isinstance(policy.colocate_with, Task):
            raise SpecError(f"{where}: colocate_with={policy.colocate_with!r} must be a task")
        try:
            hash(policy)  # tasks of equal policies are queued together
        except TypeError as exc:
            raise SpecError(f"{where}: {exc}; give its class a __hash__, a dataclass eq=False or frozen=True") from exc
