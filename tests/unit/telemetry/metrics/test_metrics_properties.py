"""What holds for the metrics of every run."""

from __future__ import annotations

import random
from itertools import islice, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhapsody.model.event import State
from rhapsody.model.resources import Resources
from rhapsody.telemetry.metrics import Measured, Metrics
from rhapsody.telemetry.metrics.width import Presence, width_of
from rhapsody.telemetry.reader import JournalReader
from tests.unit.telemetry.metrics.story import Story, array, in_pieces, task

CORES = 3
TYPES = [Resources(), Resources(gpus_per_rank=1), Resources(mpi=True)]
ENDS = [State.DONE, State.FAILED, State.CANCELED, State.UNKNOWN]

Turn = tuple[int, int, int, State]
"""Seconds before it runs, seconds that it runs, index of its type, how it ends."""
turns = st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 2), st.sampled_from(ENDS))
lanes = st.lists(st.lists(turns, max_size=8), min_size=1, max_size=CORES)


def tell(folder: Path, lanes: list[list[Turn]], seed: int) -> Story:
    """Tell of cores that each run one task after another; what happened on them is recorded in any order."""
    story = Story(folder, cores=CORES, gpus=CORES)
    order = random.Random(seed)  # noqa: S311 - an order, no secret
    steps = []
    for turns in lanes:
        now = 0
        steps.append(
            [
                (begin, (now := begin + length), task(TYPES[which]), state)
                for wait, length, which, state in turns
                for begin in [now + wait]
            ]
        )
    story.submit(0, *(each for steps_of in steps for _, _, each, _ in steps_of))
    while any(steps):
        begin, end, each, state = order.choice([lane for lane in steps if lane]).pop(0)
        story.place(begin, each)
        story.run_from(begin, each)
        story.enter(state, end, each)
    story.journal.close()
    return story


def told(lanes: list[list[Turn]], seed: int) -> Measured:
    with TemporaryDirectory() as name:
        return tell(Path(name), lanes, seed).measured()


class TestAnyRun:
    @settings(max_examples=60, deadline=None)
    @given(lanes, st.integers(0, 99))
    def test_utilization_and_width_stay_within_what_there_is(self, lanes: list[list[Turn]], seed: int) -> None:
        found = told(lanes, seed)

        if found.width is None:
            return
        assert found.core_utilization is not None
        assert 0 <= found.core_utilization <= 1
        assert 0 <= found.width.mean <= found.width.peak <= len(TYPES)
        assert found.width.peak == max(found.width.peaks)
        assert len(found.width.means) <= 500

    @settings(max_examples=60, deadline=None)
    @given(lanes, st.integers(0, 99))
    def test_every_task_is_counted_once(self, lanes: list[list[Turn]], seed: int) -> None:
        found = told(lanes, seed)

        assert sum(found.tasks.values()) == sum(map(len, lanes)) == found.arrivals.count
        assert sum(group.count for group in found.failures) == sum(
            found.tasks.get(state, 0) for state in ("FAILED", "UNKNOWN")
        )

    @settings(max_examples=60, deadline=None)
    @given(lanes, st.integers(0, 99))
    def test_busy_time_and_width_are_those_of_a_plain_count(self, lanes: list[list[Turn]], seed: int) -> None:
        found = told(lanes, seed)

        spans = []
        for lane in lanes:
            now = 0
            for wait, length, which, _ in lane:
                spans.append((now + wait, now + wait + length, which))
                now += wait + length
        last = max((end for _, end, _ in spans), default=0)
        running = [{which for start, end, which in spans if start <= second < end} for second in range(last)]
        if last:
            assert found.width is not None
            assert found.core_utilization == pytest.approx(sum(end - start for start, end, _ in spans) / (CORES * last))
            assert found.width.peak == max(map(len, running))
            assert found.width.mean == pytest.approx(sum(map(len, running)) / last)

    @settings(max_examples=30, deadline=None)
    @given(st.integers(1, 300), st.integers(1, 50))
    def test_overhead_times_throughput_is_the_number_of_no_ops(self, count: int, length: int) -> None:
        with TemporaryDirectory() as name:
            story = Story(Path(name))
            story.whole(0, 0, length, *(task() for _ in range(count)))
            found = story.measured()

        assert found.overhead_s is not None
        assert found.throughput is not None
        assert found.overhead_s * found.throughput == pytest.approx(count)


class TestAnyPrefix:
    @settings(max_examples=30, deadline=None)
    @given(lanes, st.integers(0, 99), st.integers(0, 60))
    def test_every_prefix_folds_and_going_on_gives_the_whole(
        self, lanes: list[list[Turn]], seed: int, size: int
    ) -> None:
        with TemporaryDirectory() as name:
            story = tell(Path(name), lanes, seed)
            prefix = Metrics()
            for found in islice(JournalReader(story.folder), size):
                prefix.take(found)

            early = prefix.result()
            whole = story.measured()

            assert early.done <= whole.done
            assert sum(early.tasks.values()) <= sum(whole.tasks.values())
            assert in_pieces(story.folder).as_json() == whole.as_json()

    def test_a_journal_that_is_still_written_is_folded_as_it_grows(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        reader = JournalReader(tmp_path)
        metrics = Metrics(reader.uid_of)
        each = array(4)
        counts: list[dict[str, int]] = []

        def fold() -> None:
            story.journal.commit()
            for found in reader:
                metrics.take(found)
            counts.append(metrics.result().tasks)

        story.submit(0, each, task())
        fold()
        story.launch(1, each, (0, 4), 1)
        fold()
        story.items(State.DONE, 2, each, (0, 4), 1)
        fold()

        assert counts == [
            {"WAITING": 5},
            {"WAITING": 1, "PLACED": 4},
            {"WAITING": 1, "DONE": 4},
        ]
        assert metrics.result().as_json() == story.measured().as_json()


class TestPresence:
    @given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10)), max_size=40))
    def test_stretches_cover_exactly_when_something_ran(self, spans: list[tuple[int, int]]) -> None:
        presence = Presence()
        for start, length in spans:
            presence.add([start], [start + length])

        starts, ends = presence.stretches()

        covered = {moment for start, length in spans for moment in range(start, start + length)}
        assert {at for start, end in zip(starts, ends, strict=True) for at in range(start, end)} == covered
        assert all(end < start for end, (_, start) in zip(ends, pairwise(starts), strict=False))

    def test_merging_now_and_then_changes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("rhapsody.telemetry.metrics.width._COMPACT_FROM", 8)
        small, large = Presence(), Presence()
        order = random.Random(1)  # noqa: S311
        spans = [(start, start + order.randrange(30)) for start in (order.randrange(2_000) for _ in range(500))]

        for start, end in spans:
            small.add([start], [end])
        large._compact_from = 1 << 30
        large.add(*zip(*spans, strict=True))

        assert len(small._starts) < len(spans)
        assert small.stretches() == large.stretches()
        assert width_of([small.stretches()], 2_100) == width_of([large.stretches()], 2_100)
