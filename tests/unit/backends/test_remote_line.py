"""The clock of another machine: the quickest answer says best how far it is off."""

from __future__ import annotations

import time

import pytest

from rhapsody.backends.remote_line import Clock

AHEAD_NS = 5_000_000_000


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that was asked at 1000 ns and answered at 3000 ns by one that is five seconds ahead."""
    monkeypatch.setattr(time, "monotonic_ns", lambda: 3_000)
    clock = Clock()
    clock.learn(1_000, AHEAD_NS + 2_000)
    return clock


def test_it_is_off_by_the_middle_of_question_and_answer(answered: Clock) -> None:
    assert (answered.offset_ns, answered.error_ns) == (-AHEAD_NS, 1_000)


def test_a_slower_answer_does_not_count(answered: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 99_000)

    answered.learn(4_000, AHEAD_NS)

    assert answered.offset_ns == -AHEAD_NS


def test_after_a_while_the_next_answer_counts_whatever_it_took(
    answered: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic_ns", lambda: 104_000)

    answered.forget()
    answered.learn(4_000, AHEAD_NS + 54_500)

    assert (answered.offset_ns, answered.error_ns) == (-AHEAD_NS - 500, 50_000)
