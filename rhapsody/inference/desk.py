"""Takes AI tasks, asks the router, and reports: one coroutine for each request that a replica could have now.

The others wait here, as they are, so that ten thousand of them cost little: the most urgent first, for each model by
itself. Reports go out in batches, one for each turn of the event loop.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from rhapsody.abc import Report
from rhapsody.errors import InferenceError, RequestRefusedError, RhapsodyError, SpecError
from rhapsody.inference.desk_requests import Prompts, prompts_given, prompts_made, request_of, response_in
from rhapsody.model.ai import Usage
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from rhapsody.abc import Listener
    from rhapsody.inference.router import Router
    from rhapsody.model.ai import AITask, Prompt

_AHEAD = 64
"""Requests to a model that the router has beyond those for which there is room: the next ones are always there."""


_NO_LIST: list[Any] = []
_NO_SET: set[Any] = set()
"""Of jobs that wait, which may be many: nothing is ever put in."""


class _Job:
    """One attempt of one task.

    Attributes:
        task: Which.
        attempt: Which.
        urgency: Place in the line; the lowest goes first.
        prompts: What it asks; None until it is its turn.
        unasked: Which of them are to be asked, the next one last.
        answers: By prompt.
        left: How many are not answered.
        open: Coroutines that work for it.
        report: How it ended; told once none of them is left.
        started_ns: When its turn came.
        timer: Ends it when its time is over.
    """

    unasked: list[int]
    answers: list[Any]
    __slots__ = ("answers", "attempt", "left", "open", "prompts", "report", "started_ns", "task", "timer", "unasked",
                 "urgency", "usage")  # fmt: skip

    def __init__(self, task: AITask, urgency: tuple[int, int]) -> None:
        self.task = task
        self.attempt = task.attempt
        self.urgency = urgency
        self.prompts: Prompts | None = None
        self.unasked = self.answers = _NO_LIST
        self.left = 0
        self.open: set[asyncio.Task[None]] = _NO_SET
        self.report: Report | None = None
        self.started_ns = 0
        self.timer: asyncio.TimerHandle | None = None
        self.usage: Usage | None = None

    def __lt__(self, other: _Job) -> bool:
        return self.urgency < other.urgency


class _Line:
    """What waits for one model, the most urgent first.

    Attributes:
        model: Its name.
        jobs: A heap.
        busy: Coroutines that work for jobs of this line.
    """

    __slots__ = ("busy", "jobs", "model")

    def __init__(self, model: str) -> None:
        self.model = model
        self.jobs: list[_Job] = []
        self.busy = 0


class Desk:
    """Takes AI tasks as a backend takes others. Use it from the router's event loop, and open it within the router.

    Args:
        router: Answers; whoever adds replicas to it, or removes them, calls `replicas_changed`.
        listener: Hears what becomes of tasks.
        clock: Returns nanoseconds on the session's clock.
        is_expected: Returns whether a model without a ready replica will have one again: its requests wait.
    """

    def __init__(
        self, router: Router, listener: Listener, clock: Callable[[], int], is_expected: Callable[[str], bool]
    ) -> None:
        self._router = router
        self._listener = listener
        self._clock = clock
        self._is_expected = is_expected
        self._lines: dict[str, _Line] = {}
        self._jobs: dict[int, _Job] = {}
        self._replicas: Counter[str] = Counter()
        self._seats = itertools.count()
        self._heard: list[Report] = []
        self._group: asyncio.TaskGroup | None = None
        self._closed = ""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ask, until the end of the block; what is not answered by then is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                self.replicas_changed()
                try:
                    yield
                finally:
                    self._close("the session was closed", Cause.CANCELED)
        finally:
            self._tell()

    def _close(self, why: str, cause: Cause) -> None:
        if not self._closed:
            self._closed = why
        for job in list(self._jobs.values()):
            self._end(job, Failure(cause, why))
        self._group = None

    # As a backend

    def launch(self, tasks: Iterable[AITask]) -> None:
        """Take over tasks whose model is known; each attempt ends in exactly one report of a final state."""
        lines: dict[str, _Line] = {}
        for task in tasks:
            model = task.model or ""
            policy = task.options.policy
            priority = task.priority + (policy.priority if policy is not None else 0)
            job = self._jobs[task.number] = _Job(task, (-priority, next(self._seats)))
            if self._closed:
                self._end(job, Failure(Cause.MODEL, self._closed))
                continue
            line = lines[model] = self._lines.setdefault(model, _Line(model))
            heapq.heappush(line.jobs, job)
        for line in lines.values():
            self._pump(line)

    def cancel(self, attempts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Give up attempts, and close their connections; return those that are not here."""
        others = []
        for number, attempt in attempts:
            job = self._jobs.get(number)
            if job is not None and job.attempt == attempt:
                self._end(job, Failure(Cause.CANCELED, "cancelled" if job.started_ns else "cancelled before it ran"))
            else:
                others.append((number, attempt))
        return others

    def replicas_changed(self) -> None:
        """Learn that the router got replicas, or lost some, or that a model is not expected any more."""
        self._replicas = Counter(member.replica.model for member in self._router.replicas.values())
        for line in list(self._lines.values()):
            self._pump(line)

    # Asking

    def _pump(self, line: _Line) -> None:
        """Ask as much as there is room for, and a little more."""
        if self._group is None:
            return
        replicas = self._replicas[line.model]
        if not replicas and not self._is_expected(line.model):
            self._fail_all(line)
        room = replicas * self._router.limits.per_replica + _AHEAD if replicas else 0
        while line.jobs and line.busy < room:
            job = line.jobs[0]
            if job.report is not None or not self._ask_next(line, job):
                heapq.heappop(line.jobs)
        if not line.jobs and not line.busy:
            self._lines.pop(line.model, None)

    def _fail_all(self, line: _Line) -> None:
        line.jobs = []
        for job in [job for job in self._jobs.values() if job.task.model == line.model]:
            self._end(job, Failure(Cause.MODEL, self._unknown(line.model)))

    def _unknown(self, model: str) -> str:
        served = ", ".join(self._router.models)
        return f"no model {model!r} is served any more; models that are: {served or 'none'}"

    def _ask_next(self, line: _Line, job: _Job) -> bool:
        """Send the next request of a job; return whether it has more of them."""
        if job.prompts is None:
            self._begin(line, job)
        elif job.unasked:
            which = job.unasked.pop()
            self._start(line, job, self._ask(line, job, which, job.prompts.prompts[which]))
        return bool(job.unasked)

    def _begin(self, line: _Line, job: _Job) -> None:
        """Let a job's turn come: what it asks is known by then, or a function makes it."""
        task = job.task
        if not job.started_ns:
            job.started_ns = self._clock()
            self._say(Report(task.number, job.attempt, State.RUNNING, job.started_ns))
            if task.options.timeout_s is not None:
                delay_s = float(task.options.timeout_s)
                job.timer = asyncio.get_running_loop().call_later(delay_s, self._time_out, job)
        if task.function is not None:
            self._start(line, job, self._make(line, job))
        else:
            self._take_prompts(job, prompts_given(task))

    async def _make(self, line: _Line, job: _Job) -> None:
        """Have a function make the prompts, in a thread: it is the user's."""
        self._take_prompts(job, await asyncio.to_thread(prompts_made, job.task))
        if job.unasked:
            heapq.heappush(line.jobs, job)

    def _take_prompts(self, job: _Job, found: Prompts | Failure) -> None:
        if isinstance(found, Failure):
            self._end(job, found)
            return
        job.prompts = found
        job.left = len(found.prompts)
        job.answers = [None] * job.left
        job.unasked = list(range(job.left - 1, -1, -1))

    def _start(self, line: _Line, job: _Job, work: Any) -> None:  # noqa: ANN401 - a coroutine
        if self._group is None or job.report is not None:
            work.close()
            return
        line.busy += 1
        if not job.open:
            job.open = set()
        asking = self._group.create_task(work)
        job.open.add(asking)
        asking.add_done_callback(partial(self._left, line, job))

    async def _ask(self, line: _Line, job: _Job, which: int, prompt: Prompt) -> None:
        try:
            request = request_of(job.task, prompt)
        except SpecError as exc:
            self._end(job, Failure(Cause.ARGUMENTS, str(exc), exc.with_traceback(None)))
            return
        try:
            answer = await self._router.ask(request)
            said, usage = response_in(answer, request.path)
        except RhapsodyError as exc:
            if not self._waits_for_replicas(line.model, exc):
                self._end(job, self._failure(line.model, job, exc))
            elif job.report is None:
                job.unasked.append(which)
                if len(job.unasked) == 1:  # else it is in the line already
                    heapq.heappush(line.jobs, job)
            return
        self._answered(job, which, said, usage)

    def _answered(self, job: _Job, which: int, said: Any, usage: Usage | None) -> None:  # noqa: ANN401 - a response
        job.answers[which] = said
        job.left -= 1
        if usage is not None:
            before = job.usage or Usage(0, 0)
            job.usage = Usage(before.tokens_in + usage.tokens_in, before.tokens_out + usage.tokens_out)
        if not job.left and job.report is None and job.prompts is not None:
            job.task.usage = job.usage
            value = job.answers if job.prompts.is_batch else said
            number, attempt = job.task.number, job.attempt
            job.report = Report(number, attempt, State.DONE, job.started_ns, self._clock(), value)

    def _left(self, line: _Line, job: _Job, asking: asyncio.Task[None]) -> None:
        """Learn that a coroutine has ended; the last one of a job that is over lets its report out."""
        line.busy -= 1
        job.open.discard(asking)
        if not asking.cancelled() and (defect := asking.exception()) is not None:
            self._close(f"the session asks no models any more: {type(defect).__name__}: {defect}", Cause.MODEL)
        self._let_go(job)
        self._pump(line)

    # When it does not go well

    def _waits_for_replicas(self, model: str, exc: RhapsodyError) -> bool:
        """Return whether a request failed only since no replica is there, and there will be one again."""
        if isinstance(exc, RequestRefusedError) or not self._is_expected(model):
            return False
        if not self._router.serves(model):
            return True
        members = self._router.replicas.values()
        is_ready = any(member.is_ready for member in members if member.replica.model == model)
        return isinstance(exc, InferenceError) and exc.status == 503 and not is_ready

    def _failure(self, model: str, job: _Job, exc: RhapsodyError) -> Failure:
        """Return why a request was not answered."""
        cause = Cause.REFUSED if isinstance(exc, RequestRefusedError) else Cause.MODEL
        text = str(exc) if self._router.serves(model) else self._unknown(model)
        if job.prompts is not None and job.prompts.is_batch:
            text = f"{text}; {job.left} of its {len(job.answers)} prompts had no answer yet"
        exc.__cause__ = exc.__context__ = None  # it may be kept for long
        return Failure(cause, text, exc.with_traceback(None))

    def _time_out(self, job: _Job) -> None:
        task = job.task
        text = f"no answer from {task.model} within {task.options.timeout_s:g} s"
        if job.prompts is not None and job.prompts.is_batch:
            text = f"{text} to {job.left} of its {len(job.answers)} prompts"
        waiting = self._router.waiting.get(task.model or "", 0)
        if waiting:
            text = f"{text}; requests that wait for a replica with room: {waiting}"
        self._end(job, Failure(Cause.TIMEOUT, text))

    def _end(self, job: _Job, failure: Failure) -> None:
        """Give a job up; it is reported once its connections are closed."""
        if job.report is not None:
            return
        number, ended_ns = job.task.number, self._clock()
        job.report = Report(number, job.attempt, failure.state, job.started_ns, ended_ns, failure=failure)
        job.unasked = []
        for asking in job.open:
            asking.cancel()
        self._let_go(job)

    def _let_go(self, job: _Job) -> None:
        """Report a job that is over, once nothing works for it any more."""
        if job.report is None or job.open:
            return
        if self._jobs.get(job.task.number) is job:
            del self._jobs[job.task.number]
            if job.timer is not None:
                job.timer.cancel()
            self._say(job.report)

    # Reporting

    def _say(self, report: Report) -> None:
        self._heard.append(report)
        if len(self._heard) == 1:
            asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        heard, self._heard = self._heard, []
        if heard:
            self._listener.hear(heard)
