"""What a session and an executor say to each other comes out as it went in."""

from __future__ import annotations

import marshal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhapsody.abc import Report
from rhapsody.backends import relay
from rhapsody.backends.results import encode_failure, encode_value
from rhapsody.model.event import State
from rhapsody.model.outcome import Cause, Failure, Stdio

OFFSET_NS = 1_000
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary())


def there_and_back(*reports: Report) -> list[Report]:
    (message,) = relay.Inbox().add(relay.pack([("reports", relay.pack_reports(reports))]))
    return relay.unpack_reports(message[1], OFFSET_NS)


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(1, 9), SCALARS)))
def test_plain_values_arrive_with_their_times_on_the_sessions_clock(tasks: list[tuple[int, int, object]]) -> None:
    sent = [Report(number, attempt, State.DONE, 5, 7, value) for number, attempt, value in tasks]

    arrived = there_and_back(*sent)

    assert arrived == [report._replace(started_ns=1_005, ended_ns=1_007) for report in sent]


def test_values_stay_encoded_until_they_arrive() -> None:
    kind, data = encode_value({"a": [1, 2]})

    (kept,) = [relay.KEEPING.one((3, 1, 10, 20), kind, data)]
    (arrived,) = there_and_back(kept)

    assert kept.value == relay.Encoded(kind, data)
    assert arrived == Report(3, 1, State.DONE, 1_010, 1_020, {"a": [1, 2]})


def test_exceptions_arrive_with_their_type() -> None:
    kind, data = encode_failure(KeyError("gone"))

    (arrived,) = there_and_back(relay.KEEPING.one((3, 1, 10, 20), kind, data))

    assert (arrived.state, arrived.ended_ns) == (State.FAILED, 1_020)
    assert arrived.failure is not None
    assert isinstance(arrived.failure.exception, KeyError)


def test_items_arrive_failed_ones_first() -> None:
    failed = {5: encode_failure(ValueError("odd"))[1]}
    data = marshal.dumps((4, 3, True, [40, None, 60], failed))

    (kept,) = relay.KEEPING.items(9, 2, (10, 20), data)
    first, last = there_and_back(kept)

    assert kept.items == (4, 7)
    assert (first.state, first.items, first.attempt) == (State.FAILED, (5, 6), 2)
    assert (last.state, last.items, last.value) == (State.DONE, (4, 7), [40, None, 60])


@pytest.mark.parametrize("state", [State.RUNNING, State.READY, State.CANCELED, State.FAILED])
def test_what_the_pool_says_itself_arrives_whole(state: State) -> None:
    failure = Failure(Cause.SIGNAL, "killed", None, "where") if state is State.FAILED else None
    stdio = Stdio("out", "err", 3) if state is State.FAILED else None
    sent = Report(1, 2, state, 0, 0, None, failure, stdio, (3, 4))

    (arrived,) = there_and_back(sent)

    assert arrived == sent


@given(st.lists(st.lists(st.tuples(st.text(), st.integers()), min_size=1)), st.integers(1, 7))
def test_messages_are_put_together_whatever_pieces_they_come_in(
    batches: list[list[tuple[str, int]]], size: int
) -> None:
    stream = b"".join(relay.pack(list(batch)) for batch in batches)
    inbox = relay.Inbox()

    found = [message for begin in range(0, len(stream), size) for message in inbox.add(stream[begin : begin + size])]

    assert found == [message for batch in batches for message in batch]
