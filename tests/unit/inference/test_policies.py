"""Policies of routing: who gets the next request."""

from __future__ import annotations

from collections import Counter

import pytest

from rhapsody.errors import SpecError
from rhapsody.inference.ledger import Load
from rhapsody.inference.policies import POLICIES, Candidate, RandomChoice, routing_policy
from rhapsody.inference.replica import Replica
from rhapsody.inference.request import COMPLETIONS, Request

REQUEST = Request.make(COMPLETIONS, {"model": "m", "prompt": "x", "max_tokens": 4})


def candidates(*weights: float) -> list[Candidate]:
    return [
        Candidate(Replica(f"r{number}", f"http://h{number}", "m", weight=weight), Load())
        for number, weight in enumerate(weights)
    ]


def choices(policy: str, among: list[Candidate], count: int) -> list[str]:
    chooser = routing_policy(policy)
    return [chooser.choose(REQUEST, among).replica.uid for _ in range(count)]


def test_round_robin_takes_one_after_the_other() -> None:
    assert choices("round_robin", candidates(1, 1, 1), 6) == ["r0", "r1", "r2", "r0", "r1", "r2"]


def test_round_robin_gives_turns_by_weight_and_spreads_them() -> None:
    turns = choices("round_robin", candidates(2, 1, 1), 8)

    assert Counter(turns) == {"r0": 4, "r1": 2, "r2": 2}
    assert "r0 r0 r0" not in " ".join(turns)


def test_random_chooses_by_weight() -> None:
    among = candidates(3, 1)
    policy = RandomChoice(seed=1)

    found = Counter(policy.choose(REQUEST, among).replica.uid for _ in range(2000))

    assert 0.7 < found["r0"] / 2000 < 0.8


def test_least_tokens_counts_prompts_and_expected_answers() -> None:
    among = candidates(1, 1, 1)
    among[0].load.tokens_in = 10
    among[1].load.tokens_out = 9
    among[2].load.tokens_in, among[2].load.tokens_out = 5, 6

    assert choices("least_tokens", among, 1) == ["r1"]


def test_least_tokens_sees_a_heavy_replica_as_less_busy() -> None:
    among = candidates(1, 4)
    among[0].load.tokens_in, among[1].load.tokens_in = 10, 20

    assert choices("least_tokens", among, 1) == ["r1"]


def test_least_tokens_takes_turns_when_all_are_equal() -> None:
    assert choices("least_tokens", candidates(1, 1, 1), 6) == ["r0", "r1", "r2", "r0", "r1", "r2"]


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_policy_chooses_one_of_the_candidates_whoever_they_are(name: str) -> None:
    policy = routing_policy(name)
    everybody = candidates(1, 2, 3, 4)

    for some in ([0], [1, 3], [0, 1, 2, 3], [2], [3, 0]):
        among = [everybody[number] for number in some]
        chosen = policy.choose(REQUEST, among)
        assert [each for each in among if each is chosen]


def test_an_unknown_policy_names_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="unknown routing policy 'best'; valid: least_tokens, random, round_robin"):
        routing_policy("best")


def test_a_policy_of_the_users_own_is_taken_as_it_is() -> None:
    own = RandomChoice()

    assert routing_policy(own) is own
