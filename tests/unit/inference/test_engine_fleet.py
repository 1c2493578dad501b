"""Many stand-in engines in virtual time: nothing is lost, and more of them are quicker."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from rhapsody.errors import SpecError
from rhapsody.inference.engine_core import Engine
from rhapsody.inference.engine_fleet import Arrival, Fleet
from rhapsody.inference.engine_model import EngineModel

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = EngineModel(max_num_seqs=16, kv_tokens=8192)


def arrivals(count: int, per_s: float) -> list[Arrival]:
    rng = random.Random(7)  # noqa: S311 - drawn alike each time
    at_s, found = 0.0, []
    for _ in range(count):
        at_s += rng.expovariate(per_s)
        found.append(Arrival(at_s, rng.randint(1, 400), rng.randint(1, 100)))
    return found


def emptiest(engines: Sequence[Engine], _: Arrival) -> int:
    return min(range(len(engines)), key=lambda index: engines[index].running + engines[index].waiting)


def test_every_arrival_is_served_once_in_the_order_of_arrival() -> None:
    asked = arrivals(500, per_s=200)
    fleet = Fleet(MODEL, 4, emptiest)

    served = fleet.serve(asked)

    assert [each.arrival for each in served] == asked
    assert all(each.arrival.at_s < each.first_s <= each.finished_s for each in served)
    assert {each.replica for each in served} == {0, 1, 2, 3}
    assert all(engine.idle for engine in fleet.engines)


def test_a_fleet_of_one_does_the_steps_of_an_engine_alone() -> None:
    asked = [Arrival(0.0, 30, 20), Arrival(0.0, 700, 3), Arrival(0.0, 5, 60)]
    alone = Engine(MODEL)
    for number, arrival in enumerate(asked):
        alone.add(str(number), arrival.prompt_tokens, arrival.output_tokens, 0.0)
    ends_s: dict[str, float] = {}
    while not alone.idle:
        ends_s |= dict.fromkeys(alone.step().finished, alone.now_s)

    fleet = Fleet(MODEL, 1, lambda *_: 0)
    served = fleet.serve(asked)

    assert [each.finished_s for each in served] == [ends_s[str(number)] for number in range(3)]
    assert fleet.busy_s[0] == pytest.approx(alone.now_s)


def test_more_replicas_serve_the_same_requests_sooner() -> None:
    asked = arrivals(300, per_s=1000)

    ends_s = [max(each.finished_s for each in Fleet(MODEL, count, emptiest).serve(asked)) for count in (1, 2, 4)]

    assert ends_s[0] > 1.6 * ends_s[1] > 1.6 * 1.6 * ends_s[2]


def test_arrivals_that_are_not_sorted_are_refused() -> None:
    with pytest.raises(SpecError, match="arrival 1 is at 1 s, before the one ahead of it"):
        Fleet(MODEL, 1, emptiest).serve([Arrival(2.0, 1, 1), Arrival(1.0, 1, 1)])


def test_a_fleet_of_none_is_refused() -> None:
    with pytest.raises(SpecError, match="replicas=0 must be at least 1"):
        Fleet(MODEL, 0, emptiest)
