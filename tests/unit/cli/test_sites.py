from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from rhapsody.cli.main import main
from tests.unit.deploy.texts import SMALL, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of profiles of one's own, the first one that is searched."""
    folder = tmp_path / "sites"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RHAPSODY_SITE_PATH", str(folder))
    write(folder, "small", SMALL)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sites", *arguments])


def test_list_shows_shipped_sites_and_ones_own(sites: Path) -> None:
    result = run("list")

    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert rows["frontier"].endswith("shipped")
    assert rows["small"].endswith(str(sites / "small.yaml"))


def test_list_tells_of_a_broken_profile_and_shows_the_others(sites: Path) -> None:
    write(sites, "broken", "schema: 3")

    result = run("list", "--json")

    assert result.exit_code == 2
    assert "frontier" in {each["name"] for each in json.loads(result.stdout)["sites"]}
    assert f"{sites / 'broken.yaml'}:1: schema: input should be 1, but it is 3" in result.stderr


def test_show_tells_queues_and_who_says_so(sites: Path) -> None:
    result = run("show", "small")

    assert result.exit_code == 0
    assert "long   all             1 to 2  24h" in result.stdout
    assert "source (H, the facility's own page, or the software's): the machine itself" in result.stdout


def test_show_takes_a_file_as_well(sites: Path) -> None:
    assert run("show", str(sites / "small.yaml"), "--markdown").stdout.splitlines()[2] == "# A small cluster"


def test_show_for_programs_has_the_profiles_own_keys(sites: Path) -> None:
    profile = json.loads(run("show", "small", "--json").stdout)

    assert profile["schema"] == 1
    assert profile["queues"]["entries"][0]["max_walltime"] == "1h"


def test_show_takes_one_way_of_printing(sites: Path) -> None:
    assert run("show", "small", "--json", "--markdown").exit_code == 2


def test_show_of_an_unknown_site_lists_the_known_ones(sites: Path) -> None:
    result = run("show", "mars")

    assert result.exit_code == 2
    assert "Error: unknown site 'mars'; valid: anvil" in result.stderr


def test_validate_says_that_a_profile_is_valid(sites: Path) -> None:
    result = run("validate", str(sites / "small.yaml"))

    assert result.exit_code == 0
    assert result.stdout == f"{sites / 'small.yaml'} is valid: A small cluster; queues: 2, kinds of nodes: 0\n"


def test_validate_names_line_and_key_of_a_fault(sites: Path) -> None:
    path = write(sites, "small", SMALL.replace("kind: slurm", "kind: lsf"))

    result = run("validate", str(path), "--json")

    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {path}:8: scheduler.kind: ")


def test_the_schema_is_json() -> None:
    assert json.loads(run("schema").stdout)["properties"]["schema"] == {
        "const": 1,
        "title": "Schema",
        "type": "integer",
    }


def test_init_writes_a_profile_that_is_then_found(sites: Path, tmp_path: Path) -> None:
    result = run("init", "here", "--scheduler", "local")

    path = tmp_path / ".config" / "rhapsody" / "sites" / "here.yaml"
    assert result.stdout == f"wrote {path}; check it, then: rhapsody sites validate {path}\n"
    assert run("show", "here").exit_code == 0


def test_init_prints_when_told_and_writes_over_nothing(sites: Path) -> None:
    printed = run("init", "here", "--scheduler", "local", "--out", "-")
    refused = run("init", "small", "--scheduler", "local", "--out", str(sites / "small.yaml"))

    assert printed.stdout.startswith("# A draft, made on ")
    assert refused.exit_code == 2
    assert "is there already; remove it" in refused.stderr
    assert (sites / "small.yaml").read_text() == SMALL


def test_init_refuses_a_name_that_cannot_be_one(sites: Path) -> None:
    assert "cannot be the name of a site" in run("init", "../mine", "--out", "-").stderr
