"""The way to a service from another machine, as profiles know it."""

from __future__ import annotations

import json
import shlex
import stat
from typing import TYPE_CHECKING, Any

import pytest

from rhapsody.deploy.connect import way_to, write_endpoint_file
from rhapsody.deploy.login_node import this_host
from rhapsody.deploy.sites.loading import load_site
from rhapsody.errors import SpecError
from rhapsody.services.endpoints import Endpoint
from tests.unit.deploy.machines import SLURM
from tests.unit.deploy.texts import ABOUT, write

if TYPE_CHECKING:
    from pathlib import Path


def endpoint(**more: object) -> Endpoint:
    given: dict[str, Any] = {"name": "llm", "url": "http://node7:8000/v1", "node": "node7", "port": 8000, **more}
    return Endpoint(**given)


def test_frontiers_tunnel_goes_through_its_login_nodes() -> None:
    way = way_to(load_site("frontier", {}), endpoint(), "ada")

    assert way.tunnel == "ssh -L 8000:node7:8000 ada@frontier.olcf.ornl.gov"
    assert way.local_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("site", "tunnel"),
    [
        ("frontier", "ssh -L 9001:node7:8000 ada@frontier.olcf.ornl.gov"),
        ("aurora", "ssh -L 9001:127.0.0.1:8000 -J ada@aurora.alcf.anl.gov ada@node7"),
        ("kubernetes", "kubectl port-forward service/node7 9001:8000"),
    ],
)
def test_another_port_changes_the_users_end_of_the_tunnel_only(site: str, tunnel: str) -> None:
    way = way_to(load_site(site, {}), endpoint(), "ada", 9001)

    assert way.tunnel == tunnel
    assert way.local_url == "http://127.0.0.1:9001/v1"
    assert way.notes == ()


def test_a_site_without_a_known_tunnel_says_what_to_ask() -> None:
    way = way_to(load_site("perlmutter", {}), endpoint(), "ada")

    assert (way.tunnel, way.local_url) == (None, "http://node7:8000/v1")
    assert "ask the facility how port 8000 of node7 is reached from outside" in way.notes[0]
    assert "services.tunnel" in way.notes[0]


@pytest.mark.parametrize("site", [None, "local", "frontier"])
def test_a_service_on_this_host_needs_no_tunnel(site: str | None) -> None:
    profile = load_site(site, {}) if site else None

    way = way_to(profile, endpoint(node=this_host()), "ada")

    assert (way.tunnel, way.local_url) == (None, "http://node7:8000/v1")
    assert way.notes == (f"{this_host()} is this machine: no tunnel is needed here",)


def test_localhost_is_this_host_only_where_the_run_was_not_sent_away() -> None:
    assert way_to(None, endpoint(node="localhost"), "ada").tunnel is None
    assert way_to(load_site("frontier", {}), endpoint(node="localhost"), "ada").tunnel is not None


def test_a_run_that_was_not_deployed_has_no_tunnel_to_another_node() -> None:
    way = way_to(None, endpoint(), "ada")

    assert way.tunnel is None
    assert "port 8000 of node7" in way.notes[0]


@pytest.mark.parametrize("node", ["node7;reboot", "$(reboot)", "-oProxyCommand=x", "a b", "node7\n", "", "a:1"])
def test_a_node_that_a_shell_would_read_is_refused(node: str) -> None:
    tampered = endpoint().model_copy(update={"node": node})

    with pytest.raises(SpecError, match="cannot go into a command"):
        way_to(load_site("frontier", {}), tampered, "ada")


@pytest.mark.parametrize("user", ["ada;reboot", "-l", "a@b", "", "a\n", "`x`", "{node}"])
def test_a_user_that_a_shell_would_read_is_refused(user: str) -> None:
    with pytest.raises(SpecError, match="cannot go into a command"):
        way_to(load_site("frontier", {}), endpoint(), user)


@pytest.mark.parametrize("port", [0, -1, 65536, "1;reboot", True])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(SpecError, match="is no port"):
        way_to(load_site("frontier", {}), endpoint(), "ada", port)
    with pytest.raises(SpecError, match="is no port"):
        way_to(load_site("frontier", {}), endpoint().model_copy(update={"port": port}), "ada")


def test_all_values_stay_words_of_their_own() -> None:
    way = way_to(load_site("aurora", {}), endpoint(node="x4.a_b-c"), "ada.l-1_")

    assert way.tunnel is not None
    assert shlex.split(way.tunnel) == way.tunnel.split(" ")


def test_what_a_profile_leaves_open_is_told(tmp_path: Path) -> None:
    services = f"services:\n  {ABOUT}\n  tunnel: 'ssh -L{{port}}:{{node}}:{{port}} {{user}}@{{gate}}'\n"
    write(tmp_path, "here", SLURM + services)

    way = way_to(load_site("here", {"RHAPSODY_SITE_PATH": str(tmp_path)}), endpoint(), "ada", 9001)

    assert way.tunnel == "ssh -L8000:node7:8000 ada@{gate}"
    assert way.notes[0] == "fill in yourself: gate"
    assert "port 9001 of your own machine" in way.notes[1]


def test_certificates_and_tokens_are_told_of() -> None:
    secure = endpoint(url="https://node7:8000", key_file="/home/ada/key")

    way = way_to(load_site("frontier", {}), secure, "ada")

    assert way.local_url == "https://127.0.0.1:8000"
    assert "/home/ada/key" in way.notes[0]
    assert "certificate" in way.notes[1]


def test_the_file_for_clients_names_the_key_and_does_not_hold_it(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret")
    served = endpoint(models=("m",), key_file=str(key))
    out = tmp_path / "llm.json"

    write_endpoint_file(out, served, way_to(load_site("frontier", {}), served, "ada", 9001))

    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert json.loads(out.read_text()) == {
        "schema": 1,
        "name": "llm",
        "url": "http://127.0.0.1:9001/v1",
        "models": ["m"],
        "key_file": str(key),
    }


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="name another file with --out"):
        write_endpoint_file(tmp_path / "none" / "x.json", endpoint(), way_to(None, endpoint(), "ada"))
