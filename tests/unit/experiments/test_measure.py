from __future__ import annotations

import os
import subprocess
import sys
import uuid

import pytest

from rhapsody.experiments.peer_scripts import measure, members
from tests.eventually import eventually

BURN = "import sys; sum(i * i for i in range(1_000_000)); print(flush=True); sys.stdin.read()"


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    mark = uuid.uuid4().hex
    monkeypatch.setenv(members.MARK_VARIABLE, mark)
    return mark


def start(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def test_latency_is_median_and_99th_percentile_in_microseconds() -> None:
    samples_s = [number / 1e6 for number in range(200, 0, -1)]

    metrics = measure.latency_metrics(samples_s)

    assert metrics == pytest.approx({"latency_median_us": 100.5, "latency_p99_us": 198.0})


def test_meter_divides_wall_and_cpu_time_by_the_count() -> None:
    meter = measure.Meter(wall_s=2.0, main_cpu_s=0.5, workers_cpu_s=1.0, mark="")

    metrics = meter.metrics(1000, "item")

    assert metrics == pytest.approx({"items_per_s": 500, "main_cpu_us_per_item": 500, "workers_cpu_us_per_item": 1000})


def test_meter_counts_cpu_time_where_it_was_used(mark: str) -> None:
    meter = measure.Meter(mark=mark)

    meter.start()
    with start(BURN) as child:
        assert child.stdout is not None
        child.stdout.readline()
        meter.stop()

    assert meter.workers_cpu_s > 0.02
    assert meter.main_cpu_s < meter.workers_cpu_s
    assert meter.wall_s > meter.workers_cpu_s / 2


def test_cpu_time_of_a_child_stays_counted_after_it_has_ended(mark: str) -> None:
    with start(BURN) as child:
        assert child.stdout is not None
        child.stdout.readline()
        before = members.cpu_s_of_children(mark)
    after = members.cpu_s_of_children(mark)

    assert after >= before - 0.02  # the children that were waited for are counted in steps of 10 ms


async def test_process_is_found_by_its_mark_after_its_parent_has_ended(mark: str) -> None:
    grandchild = "import sys; print(flush=True); sys.stdin.read()"
    parent = start(
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True, stdin=0); "
        "print(child.pid, flush=True)"
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = int(parent.stdout.readline())
    parent.wait()

    found = [process.pid for process in members.find(mark, leader=parent.pid)]
    strangers = [process.pid for process in members.find(uuid.uuid4().hex, leader=parent.pid)]

    parent.stdin.close()
    await eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="the grandchild has ended")  # noqa: PTH110
    parent.stdout.close()
    assert pid in found
    assert pid not in strangers
