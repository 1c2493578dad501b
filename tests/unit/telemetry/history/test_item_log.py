"""How far the items of an array task were: what is done is done once, with the value of its last try."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rhapsody.telemetry.history.item_log import DONE, ENDED, LAUNCHED, LOST, NEVER, RUNNING, ItemLog, Stretch

LENGTH = 12


class TestStretches:
    def test_what_is_done_comes_in_the_order_of_the_items(self) -> None:
        log = ItemLog(10)

        log.done((6, 9), 2)
        log.done((0, 3), 1)

        assert log.stretches() == [Stretch(0, 3, 1, 0), Stretch(6, 9, 2, 0)]

    def test_items_that_failed_before_are_left_out(self) -> None:
        log = ItemLog(6)

        log.enter(ENDED, (2, 3))
        log.done((0, 5), 1)

        assert log.stretches() == [Stretch(0, 2, 1, 0), Stretch(3, 5, 1, 3)]
        assert list(log.states) == [DONE, DONE, ENDED, DONE, DONE, NEVER]

    def test_an_item_that_was_tried_again_has_its_later_value(self) -> None:
        log = ItemLog(4)
        log.enter(ENDED, (1, 2))
        log.done((0, 4), 1)

        log.enter(LAUNCHED, (1, 2))
        log.done((1, 2), 7)

        assert log.stretches() == [Stretch(0, 1, 1, 0), Stretch(1, 2, 7, 0), Stretch(2, 4, 1, 2)]

    def test_restored_items_are_found_where_they_were_kept(self) -> None:
        log = ItemLog(8)

        log.restored((2, 5), 3, 4)

        assert log.stretches() == [Stretch(2, 5, 3, 4)]

    def test_a_range_beyond_the_end_is_cut(self) -> None:
        log = ItemLog(3)

        log.done((1, 9), 1)
        log.enter(LAUNCHED, (2, 50))

        assert list(log.states) == [NEVER, DONE, LAUNCHED]
        assert log.stretches() == [Stretch(1, 2, 1, 0)]

    def test_what_was_launched_again_is_done_no_more(self) -> None:
        log = ItemLog(4)
        log.done((0, 4), 1)

        log.enter(LAUNCHED, (1, 3))

        assert log.stretches() == [Stretch(0, 1, 1, 0), Stretch(3, 4, 1, 3)]

    def test_what_was_done_and_could_not_be_restored_stays_done(self) -> None:
        log = ItemLog(4)
        log.done((0, 2), 1)

        log.enter(ENDED, (0, 4))

        assert list(log.states) == [DONE, DONE, ENDED, ENDED]


class TestSettling:
    def test_what_was_under_way_is_lost(self) -> None:
        log = ItemLog(4)
        log.enter(LAUNCHED, (0, 2))
        log.enter(RUNNING, (1, 2))
        log.done((3, 4), 1)

        log.settle(complete=False)

        assert list(log.states) == [LOST, LOST, NEVER, DONE]
        assert log.lost() == [(0, 2)]

    def test_what_was_only_launched_runs_when_all_that_ran_is_known(self) -> None:
        log = ItemLog(3)
        log.enter(LAUNCHED, (0, 2))
        log.enter(RUNNING, (1, 2))

        log.settle(complete=True)

        assert list(log.states) == [NEVER, LOST, NEVER]

    def test_what_had_not_started_is_lost_when_records_are_missing(self) -> None:
        log = ItemLog(4)
        log.enter(ENDED, (0, 1))
        log.done((1, 2), 1)

        log.doubt()
        log.enter(NEVER, (3, 4))

        assert list(log.states) == [ENDED, DONE, LOST, NEVER]


class TestHearing:
    def test_what_the_backend_saw_end_fills_what_the_journal_leaves_open(self) -> None:
        log = ItemLog(6)
        log.enter(LAUNCHED, (0, 5))
        log.enter(ENDED, (1, 2))
        log.done((0, 2), 1)

        log.salvaged((0, 4), -1)

        assert log.stretches() == [Stretch(0, 1, 1, 0), Stretch(2, 4, -1, 2)]
        assert list(log.states) == [DONE, ENDED, DONE, DONE, LAUNCHED, NEVER]

    def test_what_it_says_of_others_changes_nothing_that_has_ended(self) -> None:
        log = ItemLog(4)
        log.enter(LAUNCHED, (0, 3))
        log.done((0, 1), 1)

        log.heard(RUNNING, (0, 4))

        assert list(log.states) == [DONE, RUNNING, RUNNING, NEVER]


RANGES = st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH)).map(lambda pair: (min(pair), max(pair)))
STEPS = st.lists(
    st.tuples(st.sampled_from(["launch", "give back", "fail", "lose", "done", "restore", "salvage", "settle"]), RANGES)
)


class TestWhateverHappens:
    @given(steps=STEPS)
    def test_each_done_item_is_in_one_stretch_with_its_latest_value(
        self, steps: list[tuple[str, tuple[int, int]]]
    ) -> None:
        log = ItemLog(LENGTH)
        states, values = [NEVER] * LENGTH, [(0, 0)] * LENGTH
        for frame, (what, (start, stop)) in enumerate(steps, 1):
            follow(log, what, (start, stop), frame)
            for item in range(LENGTH) if what == "settle" else range(start, stop):
                before, states[item] = states[item], after(what, states[item])
                is_new = what in ("done", "restore") or (what == "salvage" and before in (LAUNCHED, LOST))
                if states[item] == DONE and is_new:
                    values[item] = (frame, item - start)

        assert list(log.states) == states
        found = [
            (item, (frame, offset + item - start))
            for start, stop, frame, offset in log.stretches()
            for item in range(start, stop)
        ]
        assert found == [(item, values[item]) for item in range(LENGTH) if states[item] == DONE]
        assert [item for start, stop in log.lost() for item in range(start, stop)] == [
            item for item in range(LENGTH) if states[item] == LOST
        ]


def follow(log: ItemLog, what: str, items: tuple[int, int], frame: int) -> None:
    match what:
        case "done":
            log.done(items, frame)
        case "restore":
            log.restored(items, frame, 0)
        case "salvage":
            log.salvaged(items, frame)
        case "settle":
            log.settle(complete=False)
        case _:
            log.enter({"launch": LAUNCHED, "give back": NEVER, "fail": ENDED, "lose": LOST}[what], items)


def after(what: str, state: int) -> int:
    """Return the state of one item after something happened to it."""
    match what:
        case "done":
            return ENDED if state == ENDED else DONE
        case "fail":
            return DONE if state == DONE else ENDED
        case "salvage":
            return DONE if state in (LAUNCHED, LOST) else state
        case "settle":
            return LOST if state == LAUNCHED else state
        case _:
            return {"launch": LAUNCHED, "give back": NEVER, "lose": LOST, "restore": DONE}[what]
