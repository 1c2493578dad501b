"""The stand-in engine: whatever is asked of it, each request gets exactly its tokens, and no limit is passed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from rhapsody.errors import SpecError
from rhapsody.inference.engine_core import Engine
from rhapsody.inference.engine_model import EngineModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from rhapsody.inference.engine_core import Step

SMALL = EngineModel(max_num_batched_tokens=8, max_num_seqs=4, max_model_len=40, kv_tokens=48, block_tokens=4)
"""So small that requests meet every limit."""

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])

models = st.builds(
    lambda seqs, more, length, kv, block: EngineModel(
        max_num_seqs=seqs,
        max_num_batched_tokens=seqs + more,
        max_model_len=length,
        kv_tokens=max(kv, block),
        block_tokens=block,
    ),
    st.integers(1, 6),
    st.integers(0, 10),
    st.integers(2, 40),
    st.integers(1, 60),
    st.sampled_from([1, 3, 4, 16]),
)


class Story:
    """An engine that is asked for things at random, and everything that came out of it."""

    def __init__(self, data: st.DataObject, model: EngineModel) -> None:
        self.data = data
        self.model = model
        self.engine = Engine(model)
        self.asked: dict[str, int] = {}
        self.aborted: set[str] = set()
        self.finished: list[str] = []
        self.got: Counter[str] = Counter()

    def add(self) -> None:
        uid = f"r{len(self.asked)}"
        longest = min(self.model.max_model_len, self.model.kv_blocks * self.model.block_tokens)
        prompt, output = self.data.draw(st.integers(1, longest)), self.data.draw(st.integers(1, 12))
        if self.model.refusal(prompt, output):
            with pytest.raises(SpecError, match=r"more than the context|blocks of the cache"):
                self.engine.add(uid, prompt, output, 0.0)
            return
        self.asked[uid] = output
        self.engine.add(uid, prompt, output, 0.0)

    def abort(self) -> None:
        there = [uid for uid in self.asked if uid not in self.aborted and uid not in self.finished]
        if there:
            uid = self.data.draw(st.sampled_from(there))
            assert self.engine.abort(uid)
            self.aborted.add(uid)

    def note(self, step: Step) -> None:
        self.got.update(dict(step.tokens))
        self.finished += step.finished

    def step(self) -> None:
        if self.engine.idle:
            return
        step = self.engine.step()
        self.note(step)
        assert step.duration_s >= self.model.base_s
        assert step.prefill_tokens + len(step.decoded) <= self.model.max_num_batched_tokens
        assert len(step.decoded) + len(step.first) <= self.model.max_num_seqs
        assert step.tokens or step.prefill_tokens  # something goes on in each

    def check(self) -> None:
        engine = self.engine
        assert 0 <= engine.kv_used_tokens <= self.model.kv_tokens
        assert engine.running <= self.model.max_num_seqs
        assert engine.running + engine.waiting == len(self.asked) - len(self.aborted) - len(self.finished)


@QUICK
@given(data=st.data(), model=models)
def test_every_request_ends_with_exactly_its_tokens_unless_refused_or_aborted(
    data: st.DataObject, model: EngineModel
) -> None:
    story = Story(data, model)

    for _ in range(data.draw(st.integers(1, 40))):
        story.data.draw(st.sampled_from([story.add, story.add, story.step, story.step, story.abort]))()
        story.check()
    while not story.engine.idle:
        story.step()
        story.check()

    ended = set(story.asked) - story.aborted
    assert Counter(story.finished) == Counter(ended)
    assert {uid: story.got[uid] for uid in ended} == {uid: story.asked[uid] for uid in ended}
    assert all(story.got[uid] < story.asked[uid] for uid in story.aborted)
    assert story.engine.kv_used_tokens == 0


@QUICK
@given(data=st.data(), model=models)
def test_a_leap_is_the_same_as_its_steps_one_by_one(data: st.DataObject, model: EngineModel) -> None:
    leaping, stepping = Story(data, model), Engine(model)

    for _ in range(data.draw(st.integers(1, 30))):
        known, gone = set(leaping.asked), set(leaping.aborted)
        data.draw(st.sampled_from([leaping.add, leaping.add, leaping.abort]))()
        for uid in set(leaping.asked) - known:
            sequence = leaping.engine._known[uid]
            stepping.add(uid, sequence.prompt_tokens, sequence.output_tokens, 0.0)
        for uid in leaping.aborted - gone:
            stepping.abort(uid)
        for _ in range(data.draw(st.integers(0, 3))):
            if leaping.engine.idle:
                break
            until_s = leaping.engine.now_s + data.draw(st.sampled_from([0.0, 0.01, 0.05, 10.0]))
            step = leaping.engine.leap(until_s)
            leaping.note(step)
            alone = [stepping.step() for _ in range(step.count)]

            assert Counter(dict(step.tokens)) == sum((Counter(dict(each.tokens)) for each in alone), Counter())
            assert step.finished == [uid for each in alone for uid in each.finished]
            assert step.preempted == [uid for each in alone for uid in each.preempted]
            assert leaping.engine.now_s == stepping.now_s
            assert leaping.engine.kv_used_tokens == stepping.kv_used_tokens


def test_a_leap_does_more_than_one_step_but_begins_none_at_the_given_time() -> None:
    engine = Engine(EngineModel(base_s=1.0, s_per_prefill_token=0, s_per_decode_seq=0, s_per_context_token=0))
    engine.add("a", 5, 100, 0.0)
    engine.step()

    step = engine.leap(until_s=11.0)

    assert step.count == 10
    assert step.tokens == [("a", 10)]
    assert engine.now_s == 11.0


def drained(engine: Engine, advance: Callable[[Engine], Step] = Engine.step) -> list[Step]:
    steps = []
    while not engine.idle:
        steps.append(advance(engine))
    return steps


def test_the_same_requests_lead_to_the_same_steps() -> None:
    engines = [Engine(SMALL), Engine(SMALL)]
    for engine in engines:
        for number in range(20):
            engine.add(f"r{number}", 1 + 7 * number % 23, 1 + 5 * number % 11, 0.0)

    first, second = map(drained, engines)

    assert first == second
    assert any(step.preempted for step in first)  # the hard case is among them


def test_a_step_takes_as_long_as_the_model_states() -> None:
    model = EngineModel(base_s=1.0, s_per_prefill_token=0.5, s_per_decode_seq=0.25, s_per_context_token=0.125)
    engine = Engine(model)
    engine.add("a", 3, 3, 0.0)

    durations = [step.duration_s for step in drained(engine)]

    assert durations == [1 + 3 * 0.5 + 3 * 0.125, 1 + 0.25 + 4 * 0.125, 1 + 0.25 + 5 * 0.125]


def test_those_that_decode_go_before_prompts_and_prompts_are_read_in_chunks() -> None:
    engine = Engine(SMALL)
    engine.add("decodes", 2, 10, 0.0)
    engine.step()
    engine.add("long", 16, 2, 0.0)

    steps = [engine.step() for _ in range(3)]

    assert [step.decoded for step in steps] == [["decodes"]] * 3
    assert [step.prefill_tokens for step in steps] == [7, 7, 2]
    assert [step.first for step in steps] == [[], [], ["long"]]


def tight(blocks: int) -> Engine:
    """Return an engine with so few blocks of four tokens that sequences take them from each other."""
    return Engine(
        EngineModel(max_num_seqs=2, max_num_batched_tokens=8, max_model_len=32, kv_tokens=4 * blocks, block_tokens=4)
    )


def test_the_newest_gives_way_when_the_cache_is_full_and_ends_all_the_same() -> None:
    engine = tight(blocks=8)
    engine.add("old", 12, 16, 0.0)
    engine.add("new", 12, 16, 0.0)

    steps = drained(engine)

    assert {uid for step in steps for uid in step.preempted} == {"new"}
    assert [uid for step in steps for uid in step.finished] == ["old", "new"]
    read_again = sum(step.prefill_tokens for step in steps) - 24
    assert read_again > 12  # its prompt, and the tokens that it had made


def test_nobody_is_admitted_in_a_step_in_which_somebody_gave_way() -> None:
    engine = tight(blocks=8)
    engine.add("old", 12, 16, 0.0)
    engine.add("new", 12, 16, 0.0)

    step = next(step for step in iter(engine.step, None) if step.preempted)

    assert step.decoded == ["old"]
    assert step.prefill_tokens == 0


def test_who_gave_way_is_ahead_of_those_that_have_not_run() -> None:
    engine = tight(blocks=8)
    engine.add("old", 12, 16, 0.0)
    engine.add("new", 12, 16, 0.0)
    while engine.running < 2:
        engine.step()
    engine.add("last", 1, 1, 0.0)
    while not engine.step().preempted:
        pass

    step = engine.step()

    assert step.prefill_tokens > 1  # of the one that gave way
    assert step.first == []


def test_a_prompt_that_is_partly_read_gives_way_to_those_that_decode() -> None:
    engine = tight(blocks=5)
    engine.add("old", 4, 12, 0.0)
    engine.step()
    engine.add("long", 18, 1, 0.0)

    steps = drained(engine)

    assert [uid for step in steps for uid in step.preempted] == ["long"]
    assert all("old" in step.decoded for step in steps[:11])  # it never lost a step


def test_a_prompt_takes_no_block_that_the_same_step_needs_for_those_that_decode() -> None:
    engine = tight(blocks=3)
    engine.add("old", 4, 5, 0.0)
    engine.step()
    engine.add("new", 7, 1, 0.0)

    step = engine.step()

    assert step.decoded == ["old"]
    assert engine.kv_used_tokens == 8
    assert engine.waiting == 1


def test_tokens_come_faster_together_than_one_after_another() -> None:
    def tokens_per_s(together: int) -> float:
        engine = Engine(EngineModel())
        for number in range(together):
            engine.add(str(number), 50, 50, 0.0)
        drained(engine, Engine.leap)
        return 50 * together / engine.now_s

    rates = [tokens_per_s(together) for together in (1, 2, 8, 32, 128)]

    assert rates == sorted(rates)
    assert rates[-1] > 10 * rates[0]


@pytest.mark.parametrize(
    ("prompt", "output", "reason"),
    [
        (39, 2, "more than the context of 40 tokens; shorten the prompt or lower max_tokens"),
        (0, 1, "both must be at least 1"),
        (1, 0, "both must be at least 1"),
    ],
)
def test_what_can_never_run_is_refused_with_the_reason(prompt: int, output: int, reason: str) -> None:
    engine = Engine(SMALL)

    with pytest.raises(SpecError, match=reason):
        engine.add("a", prompt, output, 0.0)

    assert engine.idle


def test_what_can_never_fit_into_the_cache_is_refused_and_what_just_fits_runs() -> None:
    engine = Engine(
        EngineModel(max_num_seqs=1, max_num_batched_tokens=8, max_model_len=100, kv_tokens=19, block_tokens=4)
    )

    with pytest.raises(SpecError, match="need 5 blocks of the cache, which has 4 of 4 tokens"):
        engine.add("long", 10, 8, 0.0)
    engine.add("fits", 10, 7, 0.0)

    assert drained(engine)[-1].finished == ["fits"]


def test_an_id_that_is_taken_is_refused_until_its_request_has_ended() -> None:
    engine = Engine(SMALL)
    engine.add("a", 1, 1, 0.0)

    with pytest.raises(SpecError, match="has a request 'a' already"):
        engine.add("a", 1, 1, 0.0)
    engine.step()
    engine.add("a", 1, 1, 0.0)

    assert engine.waiting == 1


def test_an_idle_engine_does_no_step_and_knows_nobody() -> None:
    engine = Engine(SMALL)

    with pytest.raises(SpecError, match="is idle: add a request"):
        engine.step()
    with pytest.raises(SpecError, match="is idle"):
        engine.leap()
    assert not engine.abort("a")


def test_a_step_that_could_not_serve_all_that_run_is_no_model() -> None:
    with pytest.raises(ValidationError, match="each running sequence needs one token of a step"):
        EngineModel(max_num_seqs=10, max_num_batched_tokens=9)
    with pytest.raises(ValidationError, match="less than one block"):
        EngineModel(kv_tokens=3, block_tokens=4)
