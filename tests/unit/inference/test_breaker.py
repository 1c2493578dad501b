"""When replicas are ejected and come back, by a clock that stands still until it is set."""

from __future__ import annotations

import pytest

from rhapsody.inference.breaker import Breaker, BreakerSettings, Fault, silent_among

SETTINGS = BreakerSettings(failures=3, silence_s=30, first_pause_s=1, longest_pause_s=5, probe_s=2)


class Clock:
    """Time that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ejected(clock: Clock) -> Breaker:
    breaker = Breaker(SETTINGS, clock)
    assert breaker.failed(Fault.UNREACHABLE, 0)
    return breaker


@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.SERVER, Fault.SILENT])
def test_a_replica_is_ejected_when_it_fails_so_often_in_a_row(clock: Clock, fault: Fault) -> None:
    breaker = Breaker(SETTINGS, clock)

    assert [breaker.failed(fault, 0) for _ in range(4)] == [False, False, True, False]
    assert breaker.is_open
    assert breaker.ejections == 1


def test_a_replica_stays_when_answers_come_between_its_failures(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)

    for _ in range(5):
        breaker.failed(Fault.SERVER, 0)
        breaker.failed(Fault.SERVER, 0)
        breaker.progressed()

    assert not breaker.is_open


def test_a_replica_is_ejected_at_once_when_nobody_listens_there(clock: Clock) -> None:
    assert ejected(clock).is_open


def test_a_probe_is_due_after_the_pause_and_only_one_at_a_time(clock: Clock) -> None:
    breaker = ejected(clock)

    assert not breaker.probe_is_due()
    clock.now_s += 1
    assert breaker.probe_is_due()
    breaker.probe_begins()
    assert not breaker.probe_is_due()


def test_pauses_double_up_to_the_longest(clock: Clock) -> None:
    breaker = ejected(clock)
    pauses = []

    for _ in range(5):
        began_s = clock.now_s
        while not breaker.probe_is_due():
            clock.now_s += 0.5
        pauses.append(clock.now_s - began_s)
        breaker.probe_begins()
        breaker.probe_failed(Fault.SERVER)

    assert pauses == [1, 2, 4, 5, 5]


def test_a_replica_is_back_when_its_probe_was_answered(clock: Clock) -> None:
    breaker = ejected(clock)
    clock.now_s += 1
    breaker.probe_begins()

    breaker.probe_answered()

    assert not breaker.is_open
    assert breaker.era == 1


def test_failures_of_attempts_from_before_the_ejection_do_not_count_after_it(clock: Clock) -> None:
    breaker = ejected(clock)
    breaker.probe_begins()
    breaker.probe_answered()

    assert not breaker.failed(Fault.UNREACHABLE, 0)
    assert breaker.failed(Fault.UNREACHABLE, 1)


def test_a_silent_replica_is_found_when_another_shows_progress(clock: Clock) -> None:
    silent, lively = Breaker(SETTINGS, clock), Breaker(SETTINGS, clock)
    clock.now_s += 31
    lively.progressed()

    assert silent_among([silent, lively], [silent, lively]) == [silent]


def test_nobody_is_silent_when_none_shows_progress(clock: Clock) -> None:
    both = [Breaker(SETTINGS, clock), Breaker(SETTINGS, clock)]
    clock.now_s += 31

    assert silent_among(both, both) == []


def test_a_replica_that_had_nothing_to_do_was_not_silent(clock: Clock) -> None:
    idle, lively = Breaker(SETTINGS, clock), Breaker(SETTINGS, clock)
    clock.now_s += 1000
    lively.progressed()
    idle.woke()

    assert silent_among([idle, lively], [idle, lively]) == []


def test_a_silent_replica_is_probed_at_once(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)

    breaker.fell_silent()

    assert breaker.is_open
    assert breaker.probe_is_due()


def test_a_replica_keeps_its_requests_until_too_many_probes_have_failed(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)
    breaker.fell_silent()

    assert [breaker.probe_failed(Fault.SILENT) for _ in range(3)] == [False, False, True]


def test_a_replica_loses_its_requests_when_nobody_listens_there_any_more(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)
    breaker.fell_silent()

    assert breaker.probe_failed(Fault.UNREACHABLE)


def test_a_silent_replica_without_another_to_compare_with_is_probed_and_not_ejected(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)
    clock.now_s += 31

    assert not breaker.probe_is_due(busy=False)
    assert breaker.probe_is_due(busy=True)
    breaker.probe_begins()
    breaker.probe_answered()

    assert not breaker.probe_is_due(busy=True)
    assert (breaker.is_open, breaker.ejections, breaker.era) == (False, 0, 0)


def test_probes_of_a_silent_replica_pause_in_between_and_the_last_one_ends_it(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)
    clock.now_s += 31
    given_up = []

    for _ in range(3):
        while not breaker.probe_is_due(busy=True):
            clock.now_s += 0.5
        breaker.probe_begins()
        given_up.append(breaker.probe_failed(Fault.SILENT))
    breaker.gave_no_sign()

    assert given_up == [False, False, True]
    assert (clock.now_s, breaker.is_open) == (134, True)
    assert not breaker.probe_is_due()


def test_probes_that_failed_are_forgotten_when_an_answer_comes(clock: Clock) -> None:
    breaker = Breaker(SETTINGS, clock)
    for _ in range(2):
        breaker.probe_begins()
        breaker.probe_failed(Fault.SILENT)

    breaker.progressed()

    breaker.probe_begins()
    assert not breaker.probe_failed(Fault.SILENT)
