"""How many tasks are in which state, what runs, and why others failed: a fold over the columns of a journal.

Replicas of services are no tasks, and are left out.
Ten bytes or so a task, whatever happened to it. Items of array tasks count each, as in `Session.counts`.
"""

from __future__ import annotations

from array import array
from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.model.event import State
from rhapsody.telemetry.reader import Changes, Newcomers, Opened, without

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rhapsody.telemetry.frames import Range

RATE_OVER_NS = 5_000_000_000
_EXAMPLES_KEPT = 3
_CODES = {state: code for code, state in enumerate(State)}
_NEW = _CODES[State.NEW]
"""Of numbers that no task has, and of array tasks: these are counted by their items."""
_UNHAPPY = (State.FAILED, State.UNKNOWN)
_SERVICE = "service"
_FAILED_CODES = frozenset(_CODES[state] for state in _UNHAPPY)


class OneKind(NamedTuple):
    """Running tasks that share a label.

    Attributes:
        label: The function's name or the executable.
        tasks: How many; items of array tasks count each.
        since_ns: When the first of them began.
    """

    label: str
    tasks: int
    since_ns: int


class OneCause(NamedTuple):
    """Tasks that failed for one cause.

    Attributes:
        cause: One word, as in `rhapsody.model.outcome.Cause`; `item` for items of array tasks that have not failed.
        tasks: How many; an array task that failed counts once.
        example: What is said of one of them.
        example_uid: Which one; empty where all whose texts were kept were tried again.
    """

    cause: str
    tasks: int
    example: str
    example_uid: str


class OneSession(NamedTuple):
    """One session of a run.

    Attributes:
        number: From 1.
        host: Where it ran; empty where the journal does not say.
        began_ns: When its journal was begun.
        last_ns: Time of its last event; 0 before the first.
    """

    number: int
    host: str
    began_ns: int
    last_ns: int


class _Array:
    """An array task and the states of its items."""

    __slots__ = ("failed", "items", "label", "since_ns")

    def __init__(self, length: int, label: int) -> None:
        self.items = bytearray(length)
        self.label = label
        self.since_ns = 0
        self.failed = ""

    def enter(self, state: State, items: Range | None, time_ns: int, detail: str) -> int:
        """Take an event of some items, or of all when None; return how many it changed."""
        first, stop = items or (0, len(self.items))
        before = self.items[first:stop]
        self.items[first:stop] = after = before.translate(_entering(state, whole=items is None))
        if items is not None and state in _UNHAPPY and not self.failed:
            self.failed = f"item {first}: {detail}"
        if not self.since_ns and state in {State.PLACED, State.RUNNING}:
            self.since_ns = time_ns
        return after.count(_CODES[state]) - before.count(_CODES[state])


def _entering(state: State, *, whole: bool) -> bytes:
    """Return what becomes of an item in each state: DONE and the like leave out those that have failed before.

    Args:
        state: That is entered.
        whole: By the array task itself: when it ends, only items that have not ended follow it.
    """
    table = bytearray([_CODES[state]] * 256)
    if state.is_final:
        for code in (_CODES[other] for other in State if other.is_final) if whole else _FAILED_CODES:
            table[code] = code
    return bytes(table)


class Tally:
    """Takes what a `JournalReader` yields, piece by piece; look at it whenever you like.

    Args:
        uid_of: Gives the uid of a task of the session that was read last.

    Attributes:
        sessions: Of the run; tasks are those of the last one.
        run: What the last one was described with.
        last_ns: Time of the last event; 0 before the first.
    """

    def __init__(self, uid_of: Callable[[int], str]) -> None:
        self._uid_of = uid_of
        self.sessions: list[OneSession] = []
        self.run: dict[str, object] = {}
        self.last_ns = 0
        self._forget()

    def _forget(self) -> None:
        self._states = bytearray()
        self._labels = array("I")
        self._started = array("q")
        self._causes = bytearray()
        self._arrays: dict[int, _Array] = {}
        self._replicas: set[int] = set()
        """Numbers of replicas of services."""
        self._known_labels: dict[str, int] = {}
        self._known_causes: dict[str, int] = {}
        self._failed: Counter[int] = Counter()
        self._examples: dict[int, dict[int, tuple[str, str]]] = {}
        self._done: deque[tuple[int, int]] = deque()

    def take(self, found: Opened | Newcomers | Changes) -> None:
        """Take the next of what a reader yields."""
        if isinstance(found, Changes):
            has_replicas = self._replicas and not self._replicas.isdisjoint(found.numbers)
            self._change(without(found, self._replicas) if has_replicas else found)
        elif isinstance(found, Newcomers):
            self._welcome(found)
        else:
            self._forget()
            self.run = found.run
            began_ns = found.run.get("started_ns", 0)
            self.sessions.append(OneSession(found.session, str(found.run.get("host", "")), began_ns, 0))

    def _welcome(self, found: Newcomers) -> None:
        if not found.numbers:
            return
        self._grow(1 + max(found.numbers))
        for group in found.groups:
            if group.kind == _SERVICE:
                self._replicas.update(found.numbers[group.start : group.stop])
                continue
            label = self._known_labels.setdefault(group.label, len(self._known_labels))
            numbers = found.numbers[group.start : group.stop]
            if isinstance(numbers, range):
                self._labels[numbers.start : numbers.stop] = array("I", [label]) * len(numbers)
            else:
                for number in numbers:
                    self._labels[number] = label
        for number, length in found.lengths.items():
            self._arrays[number] = _Array(length, self._labels[number])

    def _grow(self, size: int) -> None:
        more = size - len(self._states)
        if more > 0:
            self._states.extend(bytes(more))
            self._causes.extend(bytes(more))
            self._labels.extend(array("I", [0]) * more)
            self._started.extend(array("q", [0]) * more)

    def _change(self, found: Changes) -> None:
        numbers, state = found.numbers, found.state
        if not found.size:
            return  # it was all of services
        self._grow(1 + max(numbers))  # of tasks whose acceptance is in a damaged frame
        times = list(islice(found.times, found.size))
        arrays = self._arrays.keys() & numbers if self._arrays else ()
        last_ns = max(times)
        if state in _UNHAPPY:
            self._blame(found, arrays)
        elif state is State.WAITING:
            self._forgive(numbers)
        elif state is State.RUNNING:
            self._start(numbers, times)
        self._enter(numbers, _CODES[state])
        done = found.size - len(arrays)
        if arrays:
            done += self._change_arrays(found, times, arrays)
        if state is State.DONE and not found.restored and done:
            self._note_done(last_ns, done)
        self._note_time(last_ns)

    def _enter(self, numbers: Iterable[int], code: int) -> None:
        states = self._states
        if isinstance(numbers, range):
            states[numbers.start : numbers.stop] = bytes([code]) * len(numbers)
        else:
            for number in numbers:
                states[number] = code

    def _start(self, numbers: Iterable[int], times: list[int]) -> None:
        started = self._started
        if isinstance(numbers, range):
            started[numbers.start : numbers.stop] = array("q", times)
        else:
            for number, time_ns in zip(numbers, times, strict=True):
                started[number] = time_ns

    def _change_arrays(self, found: Changes, times: list[int], arrays: Iterable[int]) -> int:
        """Let the items of array tasks enter a state; return how many did."""
        entered = 0
        for number, time_ns, items, detail in zip(found.numbers, times, found.ranges, found.details, strict=False):
            if number in arrays:
                self._states[number] = _NEW
                entered += self._arrays[number].enter(found.state, items, time_ns, detail)
        return entered

    def _blame(self, found: Changes, arrays: Iterable[int]) -> None:
        """Keep why tasks failed; that items of array tasks did is kept with these."""
        for number, items, detail in zip(found.numbers, found.ranges, found.details, strict=False):
            if items is not None and number in arrays:
                continue
            cause, _, text = detail.partition(": ")
            code = self._known_causes.setdefault(cause or "unknown", len(self._known_causes) + 1)
            self._causes[number] = code
            self._failed[code] += 1
            examples = self._examples.setdefault(code, {})
            if len(examples) < _EXAMPLES_KEPT:
                examples[number] = (self._uid_of(number), text)

    def _forgive(self, numbers: Iterable[int]) -> None:
        """Forget why tasks failed that are tried again."""
        if not self._failed:
            return
        for number in numbers:
            if code := self._causes[number]:
                self._causes[number] = 0
                self._failed[code] -= 1
                self._examples[code].pop(number, None)

    def _note_done(self, time_ns: int, count: int) -> None:
        self._done.append((time_ns, count))
        while self._done[0][0] < time_ns - 2 * RATE_OVER_NS:
            self._done.popleft()

    def _note_time(self, time_ns: int) -> None:
        if time_ns > self.last_ns:
            self.last_ns = time_ns
            if self.sessions:
                self.sessions[-1] = self.sessions[-1]._replace(last_ns=time_ns)

    @property
    def counts(self) -> dict[State, int]:
        """Tasks by state, those without any left out."""
        columns = [self._states, *(each.items for each in self._arrays.values())]
        found = {state: sum(column.count(code) for column in columns) for state, code in _CODES.items() if code != _NEW}
        return {state: count for state, count in found.items() if count}

    @property
    def running(self) -> list[OneKind]:
        """What is RUNNING, and items of array tasks that are with a worker; the longest running first."""
        labels = list(self._known_labels)
        kinds: dict[str, OneKind] = {}
        for label, tasks, since_ns in self._under_way():
            name = labels[label] if labels else "?"
            before = kinds.get(name, OneKind(name, 0, since_ns))
            kinds[name] = OneKind(name, before.tasks + tasks, min(before.since_ns, since_ns))
        return sorted(kinds.values(), key=lambda kind: kind.since_ns)

    def _under_way(self) -> Iterator[tuple[int, int, int]]:
        """Yield label, count and beginning of what runs."""
        running = _CODES[State.RUNNING]
        at = self._states.find(running)
        while at >= 0:
            yield self._labels[at], 1, self._started[at]
            at = self._states.find(running, at + 1)
        for each in self._arrays.values():
            if under_way := each.items.count(running) + each.items.count(_CODES[State.PLACED]):
                yield each.label, under_way, each.since_ns

    @property
    def failures(self) -> list[OneCause]:
        """Why tasks FAILED or are UNKNOWN, the most frequent cause first."""
        names = {code: cause for cause, code in self._known_causes.items()}
        found = []
        for code, count in self._failed.items():
            if count:
                uid, text = next(iter(self._examples[code].values()), ("", ""))
                found.append(OneCause(names[code], count, text, uid))
        found += self._failed_items()
        return sorted(found, key=lambda group: -group.tasks)

    def _failed_items(self) -> Iterator[OneCause]:
        """Yield what is known of failed items while their array tasks have not failed."""
        failed = {
            number: sum(map(each.items.count, _FAILED_CODES))
            for number, each in self._arrays.items()
            if each.failed and not self._causes[number]
        }
        number = next((number for number, items in failed.items() if items), None)
        if number is not None:
            yield OneCause("item", sum(failed.values()), self._arrays[number].failed, self._uid_of(number))

    def rate(self, now_ns: int) -> float:
        """Return the tasks DONE per second in the seconds before `now_ns`, on the session's clock."""
        began_ns = self.sessions[-1].began_ns if self.sessions else 0
        span_ns = min(RATE_OVER_NS, now_ns - began_ns)
        done = sum(count for time_ns, count in self._done if time_ns > now_ns - span_ns)
        return done * 1e9 / span_ns if span_ns > 0 else 0.0
