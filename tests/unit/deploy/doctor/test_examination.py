"""All checks together: what holds of findings for every site, and what the terminal shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from rhapsody.cli.doctor_view import as_dict, render
from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.doctor.examination import Finding, Health, Patient, examine
from rhapsody.deploy.sites.loading import load_site
from tests.unit.deploy.machines import SLURM, Machine, by_name

if TYPE_CHECKING:
    from pathlib import Path

NAMES = sorted(path.stem for path in asset_folder("site-profiles").glob("*.yaml"))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("HOME", str(tmp_path))
    return Machine(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_that_is_not_ok_says_what_to_do_at_each_shipped_site_on_this_machine(
    name: str, tmp_path: Path
) -> None:
    patient = Patient(tmp_path / "runs", account="abc123", queue="nowhere", image=str(tmp_path / "image.sif"))

    findings = examine(load_site(name, {}), patient)

    assert findings
    assert [finding for finding in findings if finding.verdict is not Health.OK and not finding.fix] == []
    assert [finding for finding in findings if not finding.text or finding.text.endswith(".")] == []
    by_name(findings)


def test_nothing_is_wrong_with_this_machine_as_a_site_of_its_own(tmp_path: Path) -> None:
    findings = examine(load_site("local", {}), Patient(tmp_path / "runs", environ={}))

    assert [finding for finding in findings if finding.verdict is Health.WRONG] == []
    assert {"host", "run folder", "space", "python", "rhapsody", "shared memory"} <= set(by_name(findings))


def test_nothing_is_left_in_the_folder_that_is_looked_at(tmp_path: Path) -> None:
    examine(load_site("local", {}), Patient(tmp_path / "runs", environ={}))

    assert list(tmp_path.iterdir()) == []


def test_a_check_that_cannot_be_made_leaves_the_others(machine: Machine) -> None:
    findings = by_name(examine(machine.profile(), machine.patient(runs=machine.folder / ("x" * 300))))

    assert findings["run folder"].verdict is Health.CANNOT_TELL
    assert "File name too long" in findings["run folder"].text
    assert {"host", "python"} <= set(findings)


def test_links_that_go_round_in_a_circle_are_told(machine: Machine) -> None:
    machine.runs.symlink_to(machine.runs)

    findings = by_name(examine(machine.profile(), machine.patient()))

    assert findings["run folder"].verdict is not Health.OK


FOUND = [
    Finding("space", Health.WRONG, "1 MB are free", "remove what you do not need"),
    Finding("host", Health.OK, "fine"),
    Finding("image", Health.CANNOT_TELL, "word " * 30, "look inside"),
]


def test_what_is_wrong_is_shown_last_with_what_to_do_below(machine: Machine) -> None:
    lines = click.unstyle(render(machine.profile(), "login1", FOUND, 70)).splitlines()

    assert lines[:2] == ["here: A cluster for tests", "on login1"]
    assert lines[3] == "ok           host   fine"
    assert lines[-4:] == [
        "wrong        space  1 MB are free",
        "                    → remove what you do not need",
        "",
        "1 wrong, 1 cannot be told from here, 1 ok",
    ]
    assert max(map(len, lines)) <= 70


def test_programs_get_all_that_was_found(machine: Machine) -> None:
    shown = as_dict(machine.profile(SLURM), "login1", FOUND)

    assert (shown["schema"], shown["site"], shown["host"]) == (1, "here", "login1")
    assert shown["findings"][0] == {
        "name": "space",
        "verdict": "wrong",
        "text": "1 MB are free",
        "fix": "remove what you do not need",
    }
