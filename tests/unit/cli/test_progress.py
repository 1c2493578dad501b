"""What a run shows while it lasts."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from rhapsody.cli import progress
from rhapsody.cli.progress import (
    Display,
    Kind,
    Lines,
    Look,
    Meter,
    Progress,
    clock_time,
    kind_lines,
    line_of,
    progress_for,
    rate_text,
)
from rhapsody.model.event import State
from rhapsody.model.task import ComputeTask
from tests.eventually import eventually

if TYPE_CHECKING:
    import pytest

    from rhapsody.model.task import Task


class Clock:
    """Shows the time that it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Board:
    """What a session shows of itself, set by hand."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.running: list[Task] = []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def dock() -> None: ...


def fold() -> None: ...


def test_rate_is_that_of_the_last_five_seconds() -> None:
    board, clock = Board(), Clock()
    meter = Meter(board, clock)
    rates = []

    for second in range(1, 11):
        clock.now = float(second)
        board.counts = {"DONE": 1000 * min(second, 5)}  # none is done from the fifth second on
        rates.append(meter.look().rate)

    assert rates[4] == 1000.0
    assert rates[6] == 600.0
    assert rates[9] == 0.0


def test_states_are_shown_in_the_order_of_interest_without_empty_ones() -> None:
    board = Board()
    board.counts = {"WAITING": 3, "RUNNING": 2, "FAILED": 1, "READY": 0, "DONE": 4}

    counts = Meter(board).look().counts

    assert list(counts.items()) == [("DONE", 4), ("RUNNING", 2), ("WAITING", 3), ("FAILED", 1)]


def test_running_tasks_are_grouped_by_label_the_longest_running_first() -> None:
    board, clock = Board(), Clock()
    meter = Meter(board, clock)
    early = ComputeTask(dock)
    board.running = [early]
    meter.look()
    clock.now = 3.0
    board.running = [ComputeTask(fold), ComputeTask(fold), early, ComputeTask(dock)]

    kinds = meter.look().kinds

    assert kinds == [Kind("dock", 2, 3.0), Kind("fold", 2, 0.0)]


def test_what_runs_takes_five_lines_at_most() -> None:
    kinds = [Kind(f"kind{number}", 2, 60.0) for number in range(9)]

    lines = kind_lines(kinds)

    assert len(lines) == 5
    assert lines[0] == "    2x   1:00  kind0"
    assert lines[-1] == "   10x         of 5 other kinds"


def test_line_holds_time_states_and_rate() -> None:
    look = Look({State.DONE: 512, State.RUNNING: 8, State.WAITING: 40}, 102.4, [])

    line = line_of(look, "12:00:05")

    assert line == "12:00:05  DONE 512  RUNNING 8  WAITING 40  (102/s)"


def test_slow_rates_have_a_decimal_and_long_times_have_hours() -> None:
    assert rate_text(0.44) == "0.4/s"
    assert rate_text(0.0) == "0/s"
    assert clock_time(3661) == "1:01:01"


def test_lines_come_every_ten_seconds_and_only_when_something_changed(capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock()
    lines = Lines(clock)
    looks = [(0.5, 1), (5.0, 2), (10.5, 3), (30.0, 3), (31.0, 4)]

    for now, done in looks:
        clock.now = now
        lines.show(Look({State.DONE: done}, 0.0, []))

    shown = [line.split()[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["1", "3", "4"]


def test_line_is_not_shown_before_there_is_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    Lines().show(Look({}, 0.0, []))

    assert capsys.readouterr().err == ""


async def test_session_is_looked_at_again_and_again_while_it_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.001)

    class Looks(Progress):
        def __init__(self) -> None:
            self.seen: list[Look] = []

        def show(self, look: Look) -> None:
            self.seen.append(look)

    board, looks = Board(), Looks()
    board.counts = {"RUNNING": 1}

    with looks.watching(board):
        await eventually(lambda: len(looks.seen) >= 2)

    assert looks.seen[0].counts == {State.RUNNING: 1}


def test_kind_of_progress_suits_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    piped = progress_for("study.py", quiet=False)
    monkeypatch.setattr(sys, "stderr", Terminal())
    on_terminal = progress_for("study.py", quiet=False)
    quiet = progress_for("study.py", quiet=True)
    monkeypatch.setenv("TERM", "dumb")
    on_dumb_terminal = progress_for("study.py", quiet=False)

    kinds = [type(each) for each in (piped, on_terminal, quiet, on_dumb_terminal)]
    assert kinds == [Lines, Display, Progress, Lines]


def test_display_leaves_standard_output_alone_where_that_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, pipe = Terminal(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", pipe)

    with Display("study.py"):
        sys.stdout.write("a result [/1]\n")

    assert pipe.getvalue() == "a result [/1]\n"
    assert "a result" not in terminal.getvalue()


def test_display_shows_what_is_printed_on_a_terminal_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", Terminal())
    line = "[bold]no markup[/], :warning: " + "x" * 200

    with Display("study.py") as display:
        sys.stdout.write(f"{line}\n")
        sys.stdout.write("[/half]")
        sys.stdout.flush()
        display.say("a message")

    shown = terminal.getvalue()
    assert f"{line}\n" in shown
    assert "[/half]" in shown
    assert "rhapsody: a message\n" in shown


def test_display_cuts_lines_to_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")

    with Display("study.py") as display:
        display.show(Look({State.RUNNING: 1}, 0.0, [Kind("name_" * 20, 1, 1.0)]))

    cut = [line for line in terminal.getvalue().splitlines() if "name_" in line]
    assert cut
    assert all("…" in line and "name_" * 8 not in line for line in cut)
