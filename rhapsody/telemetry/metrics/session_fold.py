"""One session of a run, folded from its journal: what became of its tasks, and what is needed to measure it.

Written for millions of tasks: most changes are of many tasks that have the same past, and cost a few slices and sums.
"""

from __future__ import annotations

from array import array
from collections import Counter
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any

from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from rhapsody.telemetry.metrics.figures import STAGES, Failures, Family, SessionFigures
from rhapsody.telemetry.metrics.items import Items
from rhapsody.telemetry.metrics.rows import Rows
from rhapsody.telemetry.metrics.width import Presence

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rhapsody.model.resources import Resources
    from rhapsody.telemetry.metrics.rows import Part
    from rhapsody.telemetry.metrics.width import Stretches
    from rhapsody.telemetry.reader import Changes, Group, Newcomers

_CODES = {state: code for code, state in enumerate(State)}
_WAITING, _READY, _PLACED, _RUNNING = (
    _CODES[name] for name in (State.WAITING, State.READY, State.PLACED, State.RUNNING)
)
_DONE, _FAILED, _UNKNOWN = _CODES[State.DONE], _CODES[State.FAILED], _CODES[State.UNKNOWN]
_RETRYING = len(_CODES)
"""WAITING, after an attempt that failed."""
_RESTORED = _RETRYING + 1
"""DONE in an earlier session."""
_STATES = {**{code: state for state, code in _CODES.items()}, _RETRYING: State.WAITING, _RESTORED: State.DONE}
_ENDED = bytes(code in _STATES and _STATES[code].is_final and code != _RESTORED for code in range(256))
_FAILURES = bytes(code in (_FAILED, _UNKNOWN) for code in range(256))
"""Tables that map codes to whether tasks ended in this session, and whether they failed."""
_STAGES = dict(
    zip([(_WAITING, _READY), (_READY, _PLACED), (_PLACED, _RUNNING), (_RUNNING, _DONE)], STAGES, strict=True)
)
_SERVICE, _AI = "service", "ai"
_LABELS_KEPT = 1_000
"""Tasks of further labels are told apart by kind and request only."""
_CAUSES = frozenset(Cause)


class SessionFold:
    """Takes what a `JournalReader` yields of one session.

    Args:
        session: Its number.
        run: What it was described with.
        uid_of: Returns a task's uid by its number.
    """

    def __init__(self, session: int, run: dict[str, Any], uid_of: Callable[[int], str]) -> None:
        self._session = session
        self._run = run
        self._uid_of = uid_of
        self._rows = Rows()
        self._families = [Family()]
        self._family_ids: dict[tuple[str, str, Resources], int] = {}
        self._last_ids: dict[int, tuple[Resources, int]] = {}
        self._presences: dict[str, Presence] = {}
        self._arrays: dict[int, Items] = {}
        self._services: dict[int, State] = {}
        self._begin_ns: int | None = None
        self._last_ns = 0
        self._stages = {name: [0, 0] for name in STAGES}
        self._arrivals = array("q")
        self._decisions = array("q")
        self._followers: dict[int, list[int]] = {}
        """For tasks that depend on answers, the numbers of those model requests."""
        self._answers: dict[int, list[int | None]] = {}
        """For requests on which tasks depend: when it was answered, and when the first of these was running."""
        self._causes: list[str | None] = []
        self._examples: dict[int, tuple[int, str]] = {}
        """For each cause, the number of a task and what it said."""

    # Tasks that were accepted

    def accept(self, found: Newcomers) -> None:
        """Take tasks that were accepted; that they are WAITING follows."""
        plain: list[int] = []
        families = array("I")
        for group in found.groups:
            numbers = found.numbers[group.start : group.stop]
            if group.kind == _SERVICE:
                self._services.update(dict.fromkeys(numbers, State.NEW))
                continue
            self._begin_ns = found.time_ns if self._begin_ns is None else min(self._begin_ns, found.time_ns)
            which = self._family_id(group)
            family = self._families[which]
            if numbers[0] in found.lengths:
                for number in numbers:
                    length = found.lengths.get(number, 0)
                    self._arrays[number] = Items(which, length, family)
                    family.accepted += length
            else:
                family.accepted += len(numbers)
                plain += numbers
                families.extend(repeat(which, len(numbers)))
        if plain:
            is_all = len(plain) == len(found.numbers)
            self._rows.assign(found.numbers if is_all else plain, families)
        for number, named in found.dependencies.items():
            self._follow(number, named)

    def _family_id(self, group: Group) -> int:
        asked, which = self._last_ids.get(id(group.resources), (None, 0))
        if asked is group.resources:  # the reader has one such object for what a group is
            return which
        key = (group.kind, group.label, group.resources)
        if key not in self._family_ids and len(self._family_ids) >= _LABELS_KEPT:
            key = (group.kind, "", group.resources)
        which = self._family_ids.setdefault(key, len(self._families))
        if which == len(self._families):
            self._families.append(self._new_family(group, key[1]))
        if len(self._last_ids) >= _LABELS_KEPT:
            self._last_ids.clear()
        self._last_ids[id(group.resources)] = group.resources, which
        return which

    def _new_family(self, group: Group, label: str) -> Family:
        if group.kind == _AI:
            return Family(group.kind, label)
        asked = group.resources
        name = asked.task_type
        presence = self._presences.setdefault(name, Presence())
        cores, gpus = asked.ranks * asked.cores_per_rank, asked.ranks * asked.gpus_per_rank
        return Family(group.kind, label, name, cores, gpus, presence=presence)

    def _follow(self, number: int, named: Iterable[int]) -> None:
        """Note which answers of models a task depends on."""
        own = self._arrays[number].family if number in self._arrays else self._rows.family_of(number)
        if number in self._services or not self._families[own].type_name:
            return
        asked = [other for other in named if self._families[self._rows.family_of(other)].kind == _AI]
        if asked:
            self._followers[number] = asked
            self._answers.update({other: [None, None] for other in asked if other not in self._answers})

    # Tasks that entered a state

    def change(self, found: Changes) -> None:
        """Take tasks that entered a state."""
        if found.restored:
            self._restore(found)
            return
        if self._is_plain(found):
            times = _column(found.times, found.size)
            self._enter(found.state, found.numbers, times, _firsts(found.attempts, found.size), found.details)
            return
        numbers: list[int] = []
        times = array("q")
        attempts: list[int] = []
        details: list[str] = []
        columns = (found.numbers, found.times, found.attempts, found.ranges, found.details)
        for number, time_ns, attempt, items, detail in zip(*columns, strict=False):  # some go on for ever
            if number in self._services:
                self._services[number] = found.state
            elif items is not None or number in self._arrays:
                self._enter_items(number, found.state, items, attempt, time_ns, detail)
            else:
                numbers.append(number)
                times.append(time_ns)
                attempts.append(attempt)
                details.append(detail)
        if numbers:
            self._enter(found.state, numbers, times, _firsts(attempts, len(attempts)), details)

    def _is_plain(self, found: Changes) -> bool:
        """Return whether there is neither an array task nor a service among tasks."""
        return (
            isinstance(found.ranges, repeat)
            and next(found.ranges) is None
            and (not self._arrays or self._arrays.keys().isdisjoint(found.numbers))
            and (not self._services or self._services.keys().isdisjoint(found.numbers))
        )

    def _enter_items(
        self, number: int, state: State, items: tuple[int, int] | None, attempt: int, time_ns: int, detail: str
    ) -> None:
        self._last_ns = max(self._last_ns, time_ns)
        if number not in self._arrays:  # its acceptance is lost
            self._arrays[number] = Items(0, 0, self._families[0])
            self._rows.forget(number)
        array_task = self._arrays[number]
        array_task.enter(state, items, attempt, time_ns, detail)
        if number in self._followers and array_task.began_ns is not None:
            self._note_follower(number, array_task.began_ns)

    def _enter(
        self,
        state: State,
        numbers: Sequence[int],
        times: array[int],
        firsts: bytes,
        details: Iterable[str],
    ) -> None:
        """Take tasks that are neither array tasks nor services."""
        latest_ns = max(times)
        self._last_ns = max(self._last_ns, latest_ns)
        code = _CODES[state]
        parts = self._rows.move(numbers, code, times, firsts)
        for part in parts:
            self._move(part, code)
        if code in (_FAILED, _UNKNOWN):
            self._blame(numbers, details)
        elif code == _WAITING:
            if parts[0].before:  # they were tasks before: it is for another attempt
                self._rows.enter(self._rows.locate(numbers), _RETRYING, times)
                self._forgive(set(numbers))
        elif self._answers:
            self._note_lags(state, numbers, times)

    def _move(self, part: Part, code: int) -> None:
        """Take tasks of one family that went from one state to another."""
        family, times = self._families[part.family], part.times
        if part.before == _RUNNING:
            times = array("q", map(max, part.before_times, times))
            family.ran_all(part.before_times, times)
        if family.kind == _AI:
            if code == _RUNNING:
                self._decisions.extend(times)
            return
        if code == _RUNNING and part.is_first and family.type_name:
            self._arrivals.extend(times)
        if (stage := _STAGES.get((part.before, code))) is not None:
            found = self._stages[stage]
            found[0] += len(times)
            found[1] += sum(times) - sum(part.before_times)

    def _restore(self, found: Changes) -> None:
        """Take tasks that were DONE in an earlier session."""
        numbers, times = [], array("q")
        for number, time_ns, items in zip(found.numbers, found.times, found.ranges, strict=False):
            self._last_ns = max(self._last_ns, time_ns)
            if number in self._arrays:
                self._arrays[number].restore(items)
            else:
                numbers.append(number)
                times.append(time_ns)
        if numbers:
            self._rows.enter(self._rows.locate(numbers), _RESTORED, times)

    # Failures

    def _blame(self, numbers: Iterable[int], details: Iterable[str]) -> None:
        """Note why tasks failed."""
        causes, base = self._rows.causes, self._rows.base
        for number, detail in zip(numbers, details, strict=False):  # no details go on for ever
            cause, message = split_detail(detail)
            if cause not in self._causes:
                self._causes.append(cause)
            code = causes[number - base] = self._causes.index(cause)
            if code not in self._examples:
                self._examples[code] = number, message

    def _forgive(self, numbers: set[int]) -> None:
        """Forget what tasks said that are tried again."""
        self._examples = {code: said for code, said in self._examples.items() if said[0] not in numbers}

    def _failures(self) -> dict[str | None, Failures]:
        failed = compress(self._rows.causes, self._rows.states.translate(_FAILURES))
        found: dict[str | None, Failures] = {}
        for code, count in Counter(failed).items():
            number, message = self._examples.get(code, (-1, ""))
            found[self._causes[code]] = Failures(count, message, self._uid_of(number) if number >= 0 else "")
        for number, items in self._arrays.items():
            count = max(0, items.counts[State.FAILED]) + max(0, items.counts[State.UNKNOWN])
            if count:
                has_cause = items.verdict in (State.FAILED, State.UNKNOWN)
                cause, message = split_detail(items.failure) if has_cause else (None, items.failure)
                known = found.get(cause, Failures(0, message, self._uid_of(number)))
                found[cause] = known._replace(tasks=known.tasks + count)
        return found

    # From answer to task

    def _note_lags(self, state: State, numbers: Iterable[int], times: Iterable[int]) -> None:
        if state is State.DONE:
            for number, time_ns in zip(numbers, times, strict=True):
                if number in self._answers:
                    self._answers[number][0] = time_ns
        elif state is State.RUNNING:
            for number, time_ns in zip(numbers, times, strict=True):
                if number in self._followers:
                    self._note_follower(number, time_ns)

    def _note_follower(self, number: int, time_ns: int) -> None:
        for asked in self._followers.pop(number):  # its first attempt counts
            answer = self._answers[asked]
            answer[1] = time_ns if answer[1] is None else min(answer[1], time_ns)

    # Figures

    def figures(self) -> SessionFigures:
        """Return what is known so far; more may be taken afterwards."""
        states = Counter({_STATES[code]: 0 for code in _STATES})
        for code, state in _STATES.items():
            if state is not State.NEW:
                states[state] += self._rows.states.count(code)
        for items in self._arrays.values():
            for state, count in items.counts.items():
                states[state] += max(0, count)
        delivered_ns = self._delivered_ns()
        is_over = all(state.is_final or not count for state, count in states.items())
        until_ns = delivered_ns if is_over else max(self._last_ns, self._begin_ns or 0)
        families, types = self._until(until_ns or 0)
        arrays = self._arrays.values()
        return SessionFigures(
            session=self._session,
            run=self._run,
            begin_ns=self._begin_ns,
            delivered_ns=delivered_ns,
            until_ns=until_ns,
            last_ns=self._last_ns,
            states={state: states[state] for state in State if states[state]},
            services=dict(Counter(self._services.values())),
            restored=self._rows.states.count(_RESTORED) + sum(items.restored for items in arrays),
            stages={name: (count, total_ns) for name, (count, total_ns) in self._stages.items()},
            families=families,
            types=types,
            core_ns=sum(family.cores * family.busy_ns for family in families),
            gpu_ns=sum(family.gpus * family.busy_ns for family in families),
            arrivals=self._arrivals[:],
            item_arrivals=[each for items in arrays for each in (*items.arrivals, *items.open_arrivals())],
            decisions=self._decisions[:],
            lags=[
                ran - answered for answered, ran in self._answers.values() if answered is not None and ran is not None
            ],
            failures=self._failures(),
        )

    def _delivered_ns(self) -> int | None:
        ended = compress(self._rows.since, self._rows.states.translate(_ENDED))
        last = max(ended, default=0)
        return max([last, *(items.ended_ns for items in self._arrays.values())]) or None

    def _until(self, until_ns: int) -> tuple[list[Family], dict[str, Stretches]]:
        """Return families and types with what is still running counted up to a moment."""
        rows = self._rows
        running: dict[int, list[int]] = {}
        for at in rows.in_state(_RUNNING):
            running.setdefault(rows.families[at], []).append(rows.since[at])
        for items in self._arrays.values():
            if since := items.open_runs():
                running.setdefault(items.family, []).extend(since)
        families = []
        still: dict[str, list[int]] = {}
        for which, family in enumerate(self._families):
            since = running.get(which, [])
            open_ns = sum(max(0, until_ns - start) for start in since)
            families.append(_copy(family, len(since), open_ns))
            still.setdefault(family.type_name, []).extend(since)
        types = {
            name: presence.stretches(still[name], [max(start, until_ns) for start in still[name]])
            for name, presence in self._presences.items()
        }
        return [family for family in families if family.accepted or family.busy_ns], types


def split_detail(detail: str) -> tuple[str | None, str]:
    """Return cause and message of a failure, as the journal writes them; the cause is None where it is not known."""
    cause, _, message = detail.partition(": ")
    return (cause, message) if cause in _CAUSES else (None, detail)


def _copy(family: Family, open_runs: int, open_ns: int) -> Family:
    common = (family.kind, family.label, family.type_name, family.cores, family.gpus)
    return Family(*common, family.accepted, family.runs + open_runs, family.busy_ns + open_ns)


def _column(times: Iterable[int], size: int) -> array[int]:
    return array("q", (next(times),)) * size if isinstance(times, repeat) else array("q", times)


def _firsts(attempts: Iterable[int], size: int) -> bytes:
    """Return for each attempt whether it is the first."""
    if isinstance(attempts, repeat):
        return bytes((next(attempts) == 1,)) * size
    return bytes(map((1).__eq__, attempts))
