"""The metrics of one session, on journals written by hand: each result is worked out in the test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rhapsody.model.event import State
from rhapsody.model.outcome import Cause
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask
from tests.unit.telemetry.metrics.story import T0, AskingTask, S, StayingTask, Story, task, work

if TYPE_CHECKING:
    from pathlib import Path

PAIR = Resources(ranks=2, cores_per_rank=1)
WITH_GPU = Resources(ranks=2, gpus_per_rank=1)


class TestThroughput:
    def test_tasks_done_are_divided_by_the_time_from_first_submission_to_last_delivery(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(10, 11, 12, task(), task())
        story.whole(12, 14, 20, task(), task(), task())

        found = story.measured()

        assert found.done == 5
        assert found.makespan_s == 10.0
        assert found.throughput == 0.5

    def test_overhead_times_throughput_is_the_number_of_tasks(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 1, 2, *(task() for _ in range(8)))

        found = story.measured()

        assert found.overhead_s == 2.0
        assert found.throughput == 4.0
        assert found.overhead_per_task_s == 0.25

    def test_a_task_that_failed_counts_by_its_end_only(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        good, bad = task(), task()
        story.whole(0, 0, 4, good)
        story.submit(0, bad)
        story.fail(5, bad)

        found = story.measured()

        assert (found.done, found.makespan_s, found.throughput) == (1, 5.0, 0.2)

    def test_nothing_is_said_of_throughput_before_anything_has_ended(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one = task()
        story.submit(0, one)
        story.ready(1, one)

        found = story.measured()

        assert found.throughput is None
        assert found.makespan_s is None
        assert found.overhead_per_task_s is None
        assert found.tasks == {"READY": 1}

    def test_a_run_without_tasks_has_no_metrics(self, tmp_path: Path) -> None:
        story = Story(tmp_path)

        found = story.measured()

        assert found.tasks == {}
        assert (found.throughput, found.core_utilization, found.width, found.window_s) == (None,) * 4
        assert (found.arrivals.count, found.arrivals.mean_per_s, found.arrivals.series) == (0, None, [])

    def test_tasks_that_still_run_end_the_makespan_at_the_last_delivery(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        late = task()
        story.whole(0, 1, 4, task(), task())
        story.submit(4, late)
        story.place(5, late)
        story.run_from(8, late)

        found = story.measured()

        assert found.throughput == 0.5
        assert found.sessions[0].end_ns == T0 + 8 * S
        assert found.tasks == {"RUNNING": 1, "DONE": 2}


class TestUtilization:
    def test_slots_times_their_time_are_divided_by_what_was_there(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=4, gpus=2)
        story.whole(0, 2, 7, task(WITH_GPU))  # 2 cores and 2 GPUs for 5 s
        story.whole(0, 7, 10, task())  # 1 core for 3 s

        found = story.measured()

        assert found.core_utilization == pytest.approx((2 * 5 + 1 * 3) / (4 * 10))
        assert found.gpu_utilization == pytest.approx(2 * 5 / (2 * 10))

    def test_what_is_there_is_summed_over_nodes(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=4, nodes=3)
        story.whole(0, 0, 10, task())

        assert story.measured().core_utilization == pytest.approx(1 / 12)

    def test_a_run_without_gpus_uses_an_unknown_share_of_them(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 1, task())

        assert story.measured().gpu_utilization is None

    def test_attempts_that_failed_count_too(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        one = task()
        story.submit(0, one)
        story.place(0, one)
        story.run_from(0, one)
        story.fail(3, one)
        story.enter(State.WAITING, 3, one)
        story.ready(5, one)
        story.place(5, one)
        story.run_from(5, one)
        story.done(10, one)

        found = story.measured()

        assert found.core_utilization == pytest.approx(0.8)
        assert found.tasks == {"DONE": 1}

    def test_what_still_runs_counts_up_to_the_last_event(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=2)
        long, short = task(), task()
        story.submit(0, long, short)
        story.place(0, long, short)
        story.run_from(2, long)
        story.run_from(4, short)
        story.done(8, short)

        assert story.measured().core_utilization == pytest.approx((6 + 4) / (2 * 8))

    def test_services_and_requests_to_models_never_count(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        story.whole(0, 0, 100, StayingTask(work))
        story.whole(10, 10, 20, AskingTask(work))
        story.whole(10, 12, 17, task())

        found = story.measured()

        assert found.core_utilization == pytest.approx(0.5)
        assert found.width is not None
        assert found.width.mean == pytest.approx(0.5)
        assert found.arrivals.count == 1
        assert found.tasks == {"DONE": 2}
        assert found.services == {"DONE": 1}
        assert found.makespan_s == 10.0


class TestWidth:
    def test_types_that_run_at_the_same_time_are_counted(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 6, task())
        story.whole(0, 2, 8, task(PAIR))
        story.whole(0, 4, 10, task(WITH_GPU))  # one type for 0-2 and 8-10, two for 2-4 and 6-8, three for 4-6

        width = story.measured().width

        assert width is not None
        assert width.peak == 3
        assert width.mean == pytest.approx((2 * 1 + 2 * 2 + 2 * 3 + 2 * 2 + 2 * 1) / 10)

    def test_tasks_of_one_type_make_one_whatever_they_call(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 4, task(), task(uid="another"))
        story.whole(0, 2, 8, task())

        width = story.measured().width

        assert width is not None
        assert (width.peak, width.mean) == (1, 1.0)

    def test_one_type_that_follows_another_at_the_same_moment_is_not_beside_it(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 5, task())
        story.whole(0, 5, 10, task(PAIR))

        width = story.measured().width

        assert width is not None
        assert (width.peak, width.mean) == (1, 1.0)

    def test_the_order_in_which_events_were_recorded_does_not_matter(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one, other = task(), task(PAIR)
        story.submit(0, one, other)
        story.place(0, one, other)
        story.run_from(6, other)
        story.done(10, other)
        story.run_from(1, one)
        story.done(5, one)

        width = story.measured().width

        assert width is not None
        assert width.peak == 1
        assert width.mean == pytest.approx(0.8)

    def test_the_series_is_bounded_and_keeps_peak_and_mean(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        for second in range(0, 3_000, 3):
            story.whole(0, second, second + 2, task())
            story.whole(0, second + 1, second + 2, task(PAIR))

        width = story.measured().width

        assert width is not None
        assert len(width.means) == len(width.peaks) == 500
        assert width.peak == max(width.peaks) == 2
        length_s, step_s = 2_999, width.step_ns / 1e9
        lengths_s = [step_s] * 499 + [length_s - 499 * step_s]
        total = sum(mean * each for mean, each in zip(width.means, lengths_s, strict=True))
        assert total / length_s == pytest.approx(width.mean) == pytest.approx(1_000 * 3 / length_s)


class TestRates:
    def test_tasks_that_enter_running_are_counted_in_windows(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 1, 3, task(), task())
        story.whole(0, 100, 200, task())  # 200 s in 200 windows

        found = story.measured()

        assert found.window_s == 1.0
        assert found.arrivals.count == 3
        assert found.arrivals.mean_per_s == pytest.approx(3 / 200)
        assert found.arrivals.peak_per_s == 2.0
        assert found.arrivals.series == [2.0] + [0.0] * 98 + [1.0] + [0.0] * 100

    def test_only_the_first_attempt_arrives(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one = task()
        story.submit(0, one)
        for second in (1, 3):
            story.place(second, one)
            story.run_from(second, one)
            story.fail(second + 1, one)
            story.enter(State.WAITING, second + 1, one)
        story.whole(4, 5, 6, task())

        assert story.measured().arrivals.count == 2

    def test_requests_to_models_are_decisions(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 1, 2, AskingTask(work), AskingTask(work), AskingTask(work))
        story.whole(0, 1, 100, task())

        found = story.measured()

        assert found.decisions.count == 3
        assert found.decisions.peak_per_s == 3 / 0.5
        assert found.decisions.mean_per_s == pytest.approx(0.03)

    def test_the_lag_is_from_an_answer_to_the_first_task_that_depends_on_it(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        asked, again = AskingTask(work), AskingTask(work)
        late, early, later, other = task(), task(), task(), task()
        story.submit(0, asked, again)
        story.submit(
            0, late, early, later, other, after={late: [asked], early: [asked], later: [asked], other: [again]}
        )
        story.run_from(1, asked, again)
        story.done(10, asked)
        story.done(20, again)
        for each, second in ((late, 15), (early, 12), (later, 17), (other, 26)):
            story.place(second, each)
            story.run_from(second, each)
        story.done(30, late, early, later, other)

        lag = story.measured().lag

        assert lag.count == 2
        assert (lag.mean_s, lag.median_s, lag.max_s) == (4.0, 4.0, 6.0)

    def test_the_shift_is_where_arrivals_follow_decisions(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        for second in (10, 47, 101, 130):
            story.whole(0, second, second + 0.2, AskingTask(work))
            story.whole(0, second + 7, second + 7.5, task())
        story.whole(0, 199, 200, AskingTask(work))

        lag = story.measured().lag

        assert lag.shift_s == 7.0
        assert lag.correlation is not None
        assert lag.correlation > 0.85

    def test_the_overlap_is_the_share_of_windows_with_both(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 10, 11, AskingTask(work), task())
        story.whole(0, 20, 21, AskingTask(work))
        story.whole(0, 30, 200, task())

        assert story.measured().overlap == 1 / 200

    def test_without_decisions_lag_and_overlap_are_unknown(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 1, 2, task())

        found = story.measured()

        assert found.overlap is None
        assert (found.lag.count, found.lag.mean_s, found.lag.shift_s) == (0, None, None)


class TestStages:
    def test_each_stage_is_the_mean_over_the_tasks_that_went_through_it(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one, other, third = task(), task(), task()
        story.submit(0, one, other, third)
        story.ready(1, one, other)
        story.place(3, one)
        story.place(5, other)
        story.run_from(6, one, other)
        story.done(10, one)

        stages = story.measured().stages

        assert stages["submitted_ready"] == (2, 1.0)
        assert stages["ready_placed"] == (2, 3.0)
        assert stages["placed_running"] == (2, 2.0)
        assert stages["running_done"] == (1, 4.0)
        assert stages["done_delivered"] is None

    def test_the_delay_before_another_attempt_is_no_stage(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one = task()
        story.submit(0, one)
        story.ready(1, one)
        story.place(1, one)
        story.fail(2, one)
        story.enter(State.WAITING, 2, one)
        story.ready(100, one)

        assert story.measured().stages["submitted_ready"] == (1, 1.0)

    def test_an_attempt_that_was_given_back_is_placed_again(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        one = task()
        story.submit(0, one)
        story.ready(0, one)
        story.place(1, one)
        one.attempt = 0
        story.ready(5, one)
        story.place(8, one)
        story.run_from(9, one)
        story.done(10, one)

        found = story.measured()

        assert found.stages["ready_placed"] == (2, 2.0)
        assert found.stages["placed_running"] == (1, 1.0)
        assert found.arrivals.count == 1
        assert found.tasks == {"DONE": 1}


class TestFailures:
    def test_tasks_that_failed_are_grouped_by_cause_the_most_frequent_first(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        broken = [task(uid=f"t{number}") for number in range(3)]
        slow = task(uid="slow")
        story.submit(0, *broken, slow)
        story.fail(1, slow, cause=Cause.TIMEOUT, text="ended after 5 s")
        story.fail(2, *broken, text="ValueError: no: such residue")

        found = story.measured()

        assert [(group.cause, group.count) for group in found.failures] == [("exception", 3), ("timeout", 1)]
        assert (found.failures[0].example, found.failures[0].example_uid) == ("ValueError: no: such residue", "t0")
        assert found.failures[1].example == "ended after 5 s"

    def test_a_task_that_was_tried_again_with_success_has_not_failed(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        lucky, unlucky = task(uid="lucky"), task(uid="unlucky")
        story.submit(0, lucky, unlucky)
        story.fail(1, lucky)
        story.enter(State.WAITING, 1, lucky)
        story.fail(2, unlucky)
        story.run_from(2, lucky)
        story.done(3, lucky)

        failures = story.measured().failures

        assert [(group.count, group.example_uid) for group in failures] == [(1, "unlucky")]

    def test_a_task_of_which_nobody_knows_the_end_has_failed_and_a_cancelled_one_has_not(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        lost, canceled = task(), task()
        story.submit(0, lost, canceled)
        story.enter(State.UNKNOWN, 1, lost)
        story.enter(State.CANCELED, 1, canceled)

        found = story.measured()

        assert [(group.cause, group.count, group.example) for group in found.failures] == [(None, 1, None)]
        assert found.tasks == {"CANCELED": 1, "UNKNOWN": 1}


class TestWhatRan:
    def test_tasks_of_a_label_and_request_are_told_with_their_time(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.whole(0, 0, 4, task(PAIR), task(PAIR))
        story.whole(0, 0, 10, task())

        families = story.measured().families

        assert [(each.label, each.type_name, each.cores, each.accepted, each.busy_ns / 1e9) for each in families] == [
            ("work", "mpi-cpu-2", 2, 2, 8.0),
            ("work", "serial-cpu-1", 1, 1, 10.0),
        ]


class TestNumbers:
    def test_tasks_may_be_submitted_in_any_order_and_with_gaps(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        made = [task() for _ in range(30_000)]
        story.whole(0, 1, 2, *reversed(made[-7:]))
        story.whole(0, 2, 4, made[4], made[20_000], made[3])

        found = story.measured()

        assert found.tasks == {"DONE": 10}
        assert found.families[0].busy_ns == (7 * 1 + 3 * 2) * S

    def test_tasks_that_run_are_found_again_when_ones_with_lower_numbers_come(self, tmp_path: Path) -> None:
        story = Story(tmp_path, cores=1)
        made = [task() for _ in range(20_000)]
        last = made[-1]
        story.submit(0, last)
        story.place(0, last)
        story.run_from(1, last)
        story.submit(2, made[0], made[9_000])
        story.done(5, last)
        story.enter(State.CANCELED, 10, made[0], made[9_000])

        found = story.measured()

        assert found.tasks == {"DONE": 1, "CANCELED": 2}
        assert found.core_utilization == pytest.approx(4 / 10)

    def test_labels_without_end_share_a_line(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        tasks = [ComputeTask(executable=f"/bin/program-{number}") for number in range(1_200)]
        story.whole(0, 1, 2, *tasks)

        found = story.measured()

        assert len(found.families) == 1_001
        assert {each.accepted for each in found.families if not each.label} == {200}
        assert found.tasks == {"DONE": 1_200}


class TestJson:
    def test_what_is_not_known_is_null_and_never_zero(self, tmp_path: Path) -> None:
        story = Story(tmp_path)
        story.submit(0, task())

        shown = story.measured().as_json()

        assert shown["schema"] == 1
        assert shown["metrics"]["TH"] is None
        assert shown["metrics"]["RU"] == {"cores": None, "gpus": None}
        assert shown["metrics"]["HW"] is None
        assert shown["metrics"]["overhead"]["stages"]["ready_placed"] == {"tasks": 0, "mean_s": None}

    def test_a_journal_that_does_not_say_what_there_is_has_no_utilization(self, tmp_path: Path) -> None:
        story = Story(tmp_path, allocation=None)
        story.whole(0, 0, 1, task())

        found = story.measured()

        assert (found.cores, found.core_utilization, found.throughput) == (None, None, 1.0)
