"""The ledger of what is in flight is exact, whatever enters, leaves, opens and closes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.inference.ledger import Entry, Ledger

STEP = st.tuples(
    st.sampled_from(["enter", "leave", "close"]), st.integers(0, 3), st.integers(0, 5000), st.integers(0, 5000)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=60))
def test_a_ledger_holds_what_has_entered_and_not_left(steps: list[tuple[str, int, int, int]]) -> None:
    ledger = Ledger()
    inside: list[tuple[str, int, int, Entry]] = []
    closed: set[str] = set()

    for step, number, tokens_in, tokens_out in steps:
        name = f"r{number}"
        if step == "enter" and name not in closed:
            if name not in ledger.loads:
                ledger.open(name)
            inside.append((name, tokens_in, tokens_out, ledger.enter(name, tokens_in, tokens_out)))
        elif step == "leave" and inside:
            ledger.leave(inside.pop(number % len(inside))[3])
        elif step == "close" and name in ledger.loads:
            ledger.close(name)
            closed.add(name)

        assert ledger.in_flight == len(inside)
        for uid, load in ledger.loads.items():
            own = [each for each in inside if each[0] == uid]
            assert load.requests == len(own)
            assert load.tokens_in == sum(each[1] for each in own)
            assert load.tokens_out == sum(each[2] for each in own)
            assert uid not in closed or own
    for _, _, _, entry in inside:
        ledger.leave(entry)
    assert all(load.tokens == load.requests == 0 for load in ledger.loads.values())
    assert not closed & set(ledger.loads)


def test_an_attempt_that_leaves_twice_is_a_defect() -> None:
    ledger = Ledger()
    load = ledger.open("r1")
    entry = ledger.enter("r1", 3, 4)
    ledger.leave(entry)

    with pytest.raises(RuntimeError, match="left the ledger twice"):
        ledger.leave(entry)

    assert (load.requests, load.tokens) == (0, 0)
