"""Scripts of every shipped site are as they were looked at last; `RENEW_GOLDEN=1 pytest tests/golden` writes them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.sites.loading import find_sites, load_site
from rhapsody.deploy.sites.profile import SchedulerKind
from tests.batch_job import complaints
from tests.golden.cases import CASES, FOLDER, file_of

if TYPE_CHECKING:
    from pathlib import Path

RENEW = bool(os.environ.get("RENEW_GOLDEN"))


@pytest.mark.parametrize("case", CASES)
def test_the_script_of_a_site_is_the_one_that_was_looked_at(case: str) -> None:
    script = CASES[case].script()
    if RENEW:
        file_of(case).parent.mkdir(exist_ok=True)
        file_of(case).write_text(script)

    assert file_of(case).exists(), "RENEW_GOLDEN=1 pytest tests/golden writes it; then look at it"
    assert script == file_of(case).read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_script_of_a_site_passes_bash_and_shellcheck(case: str, tmp_path: Path) -> None:
    file = tmp_path / "job.sh"
    file.write_text(CASES[case].script())

    assert complaints(file) == ""


def test_every_shipped_site_with_a_batch_system_has_a_script_and_no_file_is_left_over() -> None:
    batch = {SchedulerKind.SLURM, SchedulerKind.PBS}
    shipped = {file.name for file in find_sites({}) if load_site(file.name, {}).scheduler.kind in batch}

    assert shipped == {case.site for case in CASES.values()}
    assert {file.stem for file in (FOLDER / "scripts").glob("*")} == set(CASES)
