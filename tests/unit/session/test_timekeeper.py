"""The moments at which a session drains and stops, and what is wrong to ask for."""

from __future__ import annotations

import math
import time

import pytest

from rhapsody.errors import SpecError
from rhapsody.session.session import Session
from rhapsody.session.timekeeper import Timekeeper


@pytest.fixture(autouse=True)
def no_batch_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what a batch job would know."""
    for variable in ("RHAPSODY_DEADLINE", "SLURM_JOB_ID", "SLURM_JOB_END_TIME", "PBS_JOBID", "LSB_JOBID", "FLUX_URI"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("walltime_s", "drain_s", "drains", "stops"),
    [
        (7_200, None, 60, 10),
        (300, None, 30, 10),
        (100, None, 10, 5),
        (7_200, 600, 600, 10),
        (7_200, 5, 5, 4.5),
        (20, 15, 15, 1),
    ],
)
async def test_session_drains_and_stops_so_long_before_the_end(
    walltime_s: float, drain_s: float | None, drains: float, stops: float
) -> None:
    timekeeper = Timekeeper(walltime_s, drain_s, lambda _: None)
    opened_s = time.time()

    await timekeeper.look()

    end_s = opened_s + walltime_s
    assert abs(end_s - timekeeper._drain_at_s - drains) < 5
    assert abs(end_s - timekeeper.stop_at_s - stops) < 5
    assert timekeeper.stop_at_s - timekeeper._drain_at_s == pytest.approx(drains - stops, abs=1e-3)


async def test_without_an_end_tasks_are_told_nothing_and_closing_takes_its_usual_time() -> None:
    timekeeper = Timekeeper(None, None, lambda _: None)

    await timekeeper.look()

    assert (timekeeper.env, timekeeper.time_left(), timekeeper.at_most(20)) == ({}, math.inf, 20)


async def test_closing_is_over_before_the_allocation_ends() -> None:
    timekeeper = Timekeeper(10, None, lambda _: None)

    await timekeeper.look()

    assert 5 < timekeeper.at_most(20) <= 7


@pytest.mark.parametrize("options", [{"walltime_s": 0}, {"walltime_s": "2h"}, {"drain_s": -1}, {"drain_s": math.inf}])
def test_time_that_is_no_positive_number_is_refused(options: dict[str, float]) -> None:
    (name,) = options

    with pytest.raises(SpecError, match=rf"Session\({name}=.*\) must be a positive number of seconds"):
        Session(cores=1, **options)  # type: ignore[arg-type]
