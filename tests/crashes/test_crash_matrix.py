"""A sample of the crash matrix; `benchmarks/crashes.py` runs all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crashes.matrix import CLEAN, HARMED, Case, Harm, Trial

if TYPE_CHECKING:
    from pathlib import Path

SEED = 20261121
KILLS = [Case(harm, frame, SEED) for harm in CLEAN for frame in (1, 8, 30)]
HARMS = [Case(harm, 20, SEED, idempotent) for harm in HARMED for idempotent in (False, True)]


@pytest.mark.parametrize("case", KILLS, ids=str)
def test_killed_session_goes_on_with_nothing_lost_and_nothing_done_twice(case: Case, tmp_path: Path) -> None:
    found = Trial(case, tmp_path).run()

    assert found.died
    assert found.faults(case) == []


@pytest.mark.parametrize("case", HARMS, ids=str)
def test_harmed_run_says_so_and_invents_nothing(case: Case, tmp_path: Path) -> None:
    found = Trial(case, tmp_path).run()

    assert found.died
    assert found.faults(case) == []


def test_session_that_is_not_killed_needs_nobody_to_go_on(tmp_path: Path) -> None:
    case = Case(Harm.KILLED, 10**9, SEED)

    found = Trial(case, tmp_path).run()

    assert not found.died
    assert found.faults(case) == []
