"""Hosts that profiles know as login nodes."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from rhapsody.deploy.login_node import known_login_node, this_host
from tests.unit.deploy.machines import SLURM
from tests.unit.deploy.texts import ABOUT, write

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the profile of a site whose login nodes are known."""
    folder = tmp_path / "sites"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RHAPSODY_SITE_PATH", str(folder))
    node = f'login_node:\n  {ABOUT}\n  host_patterns: ["login[0-9]*.here.org", "uan0?"]\n'
    write(folder, "here", SLURM + node)
    return folder


@pytest.mark.parametrize("host", ["login3.here.org", "LOGIN12.Here.org.", "uan01", "uan02.elsewhere.org"])
def test_a_host_is_known_by_its_full_or_its_short_name(sites: Path, host: str) -> None:
    found = known_login_node(host)

    assert found is not None
    assert found.name == "here"


@pytest.mark.parametrize("host", ["login3", "login.here.org", "node7.here.org", "uan012", "xuan01", ""])
def test_another_host_is_not_known(sites: Path, host: str) -> None:
    assert known_login_node(host) is None


def test_a_broken_profile_does_not_hide_the_others(sites: Path) -> None:
    write(sites, "aaa", "schema: 7")

    assert known_login_node("uan01") is not None


def test_only_the_profiles_that_are_given_are_looked_at(sites: Path) -> None:
    assert known_login_node("uan01", []) is None


def test_this_host_has_the_name_that_the_system_has() -> None:
    assert this_host().partition(".")[0] == socket.gethostname().partition(".")[0]
