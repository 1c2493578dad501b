"""States and events."""

from __future__ import annotations

from rhapsody.model.event import Event, State


def test_the_last_four_states_are_final() -> None:
    assert [state for state in State if state.is_final] == ["DONE", "FAILED", "CANCELED", "UNKNOWN"]


def test_a_state_is_its_name() -> None:
    assert str(State.RUNNING) == State.RUNNING == "RUNNING"


def test_an_event_needs_no_more_than_when_what_and_which() -> None:
    event = Event(0, 1, "task.1", 1, State.DONE)

    assert (event.items, event.slots, event.detail) == (None, (), "")
