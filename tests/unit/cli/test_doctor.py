"""`rhapsody doctor`: which site it means, what it exits with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from rhapsody.cli.doctor import doctor
from rhapsody.deploy.login_node import this_host
from tests.unit.deploy.machines import SLURM
from tests.unit.deploy.texts import ABOUT, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles of one's own; there is no batch system on PATH."""
    folder = tmp_path / "sites"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("RHAPSODY_SITE_PATH", str(folder))
    monkeypatch.setenv("RHAPSODY_RUNS", str(tmp_path / "runs"))
    write(folder, "here", SLURM)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(doctor, arguments)


def test_without_a_known_login_node_the_machine_itself_is_meant(sites: Path) -> None:
    result = run()

    assert result.exit_code == 0
    assert result.stdout.startswith("local: This machine, without a batch system\n")


def test_a_known_login_node_names_the_site(sites: Path) -> None:
    write(sites, "here", f'{SLURM}login_node:\n  {ABOUT}\n  host_patterns: ["{this_host().lower()}"]\n')

    found = json.loads(run("--json").stdout)

    assert found["site"] == "here"
    assert found["findings"][0]["text"] == f"{this_host()} is a login node of here"


def test_something_that_is_wrong_is_told_by_the_exit_code(sites: Path) -> None:
    result = run("--site", "here")

    assert result.exit_code == 1
    assert "sbatch, squeue, scancel, srun, sinfo not on PATH" in " ".join(result.stdout.split())


def test_a_profile_is_taken_from_a_file_as_well(sites: Path) -> None:
    assert json.loads(run("--site", str(sites / "here.yaml"), "--json").stdout)["site"] == "here"


def test_a_site_that_is_not_known_is_an_error_of_the_input(sites: Path) -> None:
    result = run("--site", "mars")

    assert result.exit_code == 2
    assert "Error: unknown site 'mars'; valid: anvil" in result.stderr
