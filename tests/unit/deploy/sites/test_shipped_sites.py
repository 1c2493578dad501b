"""The profiles that come with RHAPSODY: they load, say what their sources say, and their pages are current."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.sites.block import Confidence
from rhapsody.deploy.sites.loading import load_site
from rhapsody.deploy.sites.page import render_page
from rhapsody.deploy.sites.profile import SiteProfile

PAGES = Path(__file__).parents[4] / "docs" / "sites"
NAMES = sorted(path.stem for path in asset_folder("site-profiles").glob("*.yaml"))


def shipped(name: str) -> SiteProfile:
    return load_site(name, {})


@pytest.fixture(autouse=True)
def _home_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))


def test_all_promised_sites_are_shipped() -> None:
    assert set(NAMES) == {
        *(
            "local",
            "slurm",
            "pbs",
            "kubernetes",
            "frontier",
            "anvil",
            "perlmutter",
            "aurora",
            "polaris",
            "delta",
            "lumi",
        ),
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_profile_reads_back_from_its_json(name: str) -> None:
    profile = shipped(name)

    assert SiteProfile.model_validate_json(profile.model_dump_json(by_alias=True)) == profile


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_nobody_vouches_for_says_what_is_unknown(name: str) -> None:
    unsure = {key: block for key, block in shipped(name).blocks.items() if block.confidence is Confidence.UNKNOWN}

    assert all(block.unknown for block in unsure.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_page_of_a_site_is_made_from_its_profile(name: str) -> None:
    page = PAGES / f"{name}.md"

    assert page.read_text() == render_page(shipped(name)), (
        f"rhapsody sites show {name} --markdown > docs/sites/{name}.md"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_site_is_linked_from_the_first_page(name: str) -> None:
    assert f"({name}.md)" in (PAGES / "README.md").read_text()


def test_frontier_binds_each_gpu_to_its_own_cores() -> None:
    kind = shipped("frontier").kind("compute")

    assert kind.gpus is not None
    assert kind.gpus.cores[0] == tuple(range(48, 56))
    assert sorted(core for cores in kind.gpus.cores for core in cores) == list(range(64))
    assert kind.usable_cores == 56


@pytest.mark.parametrize("name", ["frontier", "lumi", "aurora", "polaris"])
def test_every_gpu_has_cores_left_for_jobs(name: str) -> None:
    kind = shipped(name).kinds[0]

    assert kind.gpus is not None
    assert all(set(cores) - set(kind.reserved_cores) for cores in kind.gpus.cores)
    assert len(kind.gpus.cores) == kind.gpu_count


@pytest.mark.parametrize("name", ["frontier", "anvil", "perlmutter", "delta", "lumi"])
def test_slurm_sites_start_one_task_on_each_node(name: str) -> None:
    directives = shipped(name).directives

    assert directives is not None
    assert directives.options["ntasks-per-node"] == "1"


@pytest.mark.parametrize("name", NAMES)
def test_no_profile_has_a_fixed_path_of_libfabric(name: str) -> None:
    assert "/libfabric/" not in shipped(name).model_dump_json()


def test_a_folder_that_the_installation_lacks_is_said_so() -> None:
    with pytest.raises(FileNotFoundError, match="has no moon-profiles; install rhapsody-hpc again"):
        asset_folder("moon-profiles")
