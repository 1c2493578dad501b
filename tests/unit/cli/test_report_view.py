"""What `rhapsody report` prints, of journals written by hand."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from rhapsody.cli import report_view
from rhapsody.model.resources import Resources
from rhapsody.model.task import ComputeTask
from tests.unit.telemetry.metrics.story import AskingTask, StayingTask, Story, task, work

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def rendered(story: Story) -> str:
    story.journal.close()
    return click.unstyle(report_view.render(report_view.look(story.folder)))


def test_decisions_are_shown_only_where_there_are_any(tmp_path: Path) -> None:
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    story, other = Story(tmp_path / "with"), Story(tmp_path / "without")
    asked, follower = AskingTask(work), task()
    story.submit(0, asked)
    story.submit(0, follower, after={follower: [asked]})
    story.run_from(1, asked)
    story.done(10, asked)
    story.place(12, follower)
    story.run_from(13, follower)
    story.done(20, follower)
    other.whole(0, 1, 2, task())

    text, text_without = rendered(story), rendered(other)

    assert re.search(r"\ndecisions +D +0\.05/s +1 in all\n", text)
    assert re.search(r"\nanswer → running +lag +3\.0 s on average +1 answers that a task waited for\n", text)
    assert "\ndecisions" not in text_without


def test_services_are_shown_beside_the_tasks(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.whole(0, 0, 10, StayingTask(work))
    story.whole(0, 0, 2, task(), task())

    text = rendered(story)

    assert "tasks       2 DONE\nservices    1 DONE\n" in text


def test_what_is_not_known_is_a_dash(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.submit(0, task())

    text = rendered(story)

    assert re.search(r"\nthroughput +TH +-$", text, re.MULTILINE)
    assert re.search(r"\ncores in use +RU +- +of 4 cores\n", text)
    assert "overhead" not in text


def test_only_the_most_of_what_ran_is_listed(tmp_path: Path) -> None:
    story = Story(tmp_path)
    for number in range(12):
        program = ComputeTask(executable=f"/opt/{'x' * 60}/program-{number}")
        story.whole(0, 0, 1 + number, program)

    lines = rendered(story).split("\n")

    assert lines[-1].startswith("5 others")
    assert len(lines[-8:]) == 8
    assert max(map(len, lines[-8:])) < 100


def test_gpus_are_shown_where_there_are_any(tmp_path: Path) -> None:
    story = Story(tmp_path, cores=4, gpus=2)
    story.whole(0, 0, 4, task(Resources(gpus_per_rank=1)))

    assert re.search(r"\nGPUs in use +RU +50\.0% +of 2 GPUs\n", rendered(story))


def test_a_long_fold_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    story = Story(tmp_path)
    story.whole(0, 0, 1, *(task() for _ in range(1_000)))
    story.journal.close()
    monkeypatch.setattr(report_view, "_SAY_FROM_S", 0.0)
    monkeypatch.setattr(report_view, "_LINE_EVERY_S", 0.0)

    report_view.look(tmp_path)

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.endswith("reading the journal: 1,000 tasks so far\n")


def test_the_json_has_the_documented_keys(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.whole(0, 0, 1, task())
    story.journal.close()

    found = json.loads(json.dumps(report_view.as_dict(report_view.look(tmp_path))))

    assert list(found) == ["schema", "run", "tasks", "services", "metrics", "ran", "failures"]
    metrics = found["metrics"]
    names = ["TH", "RU", "HW", "window_s", "ARR", "decision_rate", "lag", "overlap", "overhead"]
    assert list(metrics) == names
    assert set(metrics["HW"]) == {"peak", "mean", "series"}
    assert set(metrics["ARR"]) == {"count", "mean_per_s", "peak_per_s", "series"}
