"""Records that are alike are read at once, and say the same as if they were read one by one."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rhapsody.abc import Report
from rhapsody.backends import relay, streaks, wire
from rhapsody.backends.member import DECODER, Chunk, Decoder, Lane, Member
from rhapsody.backends.results import encode_value
from rhapsody.model.event import State

OFFSET_NS = 500
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=3))
RUNS = st.lists(st.tuples(VALUES, st.integers(1, 25)), min_size=1, max_size=6)
"""Values, and how often each comes in a row."""


def record(sequence: int, value: object) -> bytes:
    kind, data = encode_value(value)
    return wire.RECORD.pack(sequence, 10 * sequence, 10 * sequence + 5, len(data), kind) + data


def worker(counts: list[int], decoder: Decoder = DECODER) -> Member:
    """Return a worker that was sent chunks of so many tasks: task n has number 100 + n and attempt 1 or 2."""
    member = Member(1, Lane("core-0"), decoder)
    first = 1
    for count in counts:
        numbers = list(range(100 + first, 100 + first + count))
        member.take(Chunk.of(numbers, [1 + number % 2 for number in numbers], [1] * count, [()] * count), 0)
        first += count
    return member


def reports_on(values: list[Any], offset_ns: int = 0) -> list[Report]:
    return [
        Report(100 + n, 1 + n % 2, State.DONE, 10 * n + offset_ns, 10 * n + 5 + offset_ns, value)
        for n, value in enumerate(values, 1)
    ]


@given(RUNS, st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 3_000))
def test_reports_are_the_same_whatever_is_alike_and_whatever_pieces_come(
    runs: list[tuple[Any, int]], counts: list[int], size: int
) -> None:
    values = [value for value, count in runs for _ in range(count)][: sum(counts)]
    member = worker(counts)
    sent = b"".join(record(sequence, value) for sequence, value in enumerate(values, 1))

    found = [report for begin in range(0, len(sent), size) for report in member.receive(sent[begin : begin + size])]

    assert found == reports_on(values)
    assert member.read == len(values)


@given(RUNS)
def test_reports_are_the_same_by_way_of_another_node(runs: list[tuple[Any, int]]) -> None:
    values = [value for value, count in runs for _ in range(count)]
    member = worker([len(values)], relay.KEEPING)

    kept = member.receive(b"".join(record(sequence, value) for sequence, value in enumerate(values, 1)))
    (message,) = relay.Inbox().add(relay.pack([("reports", relay.pack_reports(kept))]))

    assert relay.unpack_reports(message[1], OFFSET_NS) == reports_on(values, OFFSET_NS)


def test_a_streak_is_kept_as_one_report() -> None:
    member = worker([50], relay.KEEPING)

    kept = member.receive(b"".join(record(sequence, None) for sequence in range(1, 51)))

    assert [type(report.value) for report in kept] == [streaks.Streak]


def test_what_was_read_before_is_not_reported_again() -> None:
    member = worker([20, 20])
    first = b"".join(record(sequence, None) for sequence in range(1, 13))
    rest = b"".join(record(sequence, None) for sequence in range(13, 41))

    found = member.receive(first) + member.receive(first + rest)

    assert found == reports_on([None] * 40)


def test_records_with_a_gap_between_them_are_not_alike() -> None:
    records = b"".join(record(sequence, None) for sequence in [*range(1, 9), *range(10, 18)])

    assert streaks.alike(bytearray(records), 0, 16, wire.RECORD.size) is None
    assert streaks.alike(bytearray(records), 0, 8, wire.RECORD.size) == records[: 8 * wire.RECORD.size]


def test_a_chunk_arrives_elsewhere_as_it_was() -> None:
    chunk = Chunk.of([4, 9], [1, 2], [3, 5], [(1,), b"pickled"], [None, {"cwd": "/"}])

    assert Chunk.arrived(*chunk.travelling()) == chunk


def test_a_chunk_without_some_tasks_has_the_others_as_they_were() -> None:
    chunk = Chunk.of([4, 9, 12], [1, 1, 2], [3, 5, 3], [(1,), (2,), (3,)], [None, {"cwd": "/"}, None])

    rest = chunk.without({1})

    assert rest == Chunk.of([4, 12], [1, 2], [3, 3], [(1,), (3,)], [None, None])
    assert chunk.without({0, 1, 2}) is None
