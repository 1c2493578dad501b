"""Endpoints as files of a run folder: what is published is found, and nothing else passes for one."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from rhapsody.errors import SpecError
from rhapsody.services.endpoints import Endpoint, find_endpoint, publish, read_endpoints, variable_of, withdraw

if TYPE_CHECKING:
    from pathlib import Path


def endpoint(name: str = "llm", **more: object) -> Endpoint:
    given: dict[str, Any] = {"name": name, "url": "http://node7:8000/v1", "node": "node7", "port": 8000, **more}
    return Endpoint(**given)


def test_what_is_published_is_found(tmp_path: Path) -> None:
    llm = endpoint(models=("meta/Llama 8B",), key_file="/home/ada/key")

    file = publish(tmp_path, llm)

    assert find_endpoint(tmp_path, "llm") == llm
    assert read_endpoints(tmp_path) == [llm]
    assert json.loads(file.read_text())["schema"] == 1


def test_only_the_owner_may_read_what_is_published(tmp_path: Path) -> None:
    file = publish(tmp_path, endpoint())

    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["llm.json"]


def test_a_service_that_starts_again_replaces_what_was_told_of_it(tmp_path: Path) -> None:
    publish(tmp_path, endpoint())

    publish(tmp_path, endpoint(node="node8", url="http://node8:8000/v1"))

    assert find_endpoint(tmp_path, "llm").node == "node8"


def test_what_is_withdrawn_is_gone(tmp_path: Path) -> None:
    publish(tmp_path, endpoint())

    withdraw(tmp_path, "llm")
    withdraw(tmp_path, "llm")

    assert read_endpoints(tmp_path) == []


def test_an_unknown_service_names_those_that_there_are(tmp_path: Path) -> None:
    for name in ("redis", "llm"):
        publish(tmp_path, endpoint(name))

    with pytest.raises(SpecError, match="unknown service 'lm'; valid: llm, redis"):
        find_endpoint(tmp_path, "lm")


def test_a_run_without_services_says_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has none that can be reached"):
        find_endpoint(tmp_path, "llm")


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        ("llm", "RHAPSODY_SERVICE_LLM_URL"),
        ("my-llm.2", "RHAPSODY_SERVICE_MY_LLM_2_URL"),
        ("A_b", "RHAPSODY_SERVICE_A_B_URL"),
    ],
)
def test_tasks_find_a_service_in_a_variable(name: str, variable: str) -> None:
    assert variable_of(name) == variable
    assert endpoint(name).variable == variable


def test_names_that_give_the_same_variable_are_refused(tmp_path: Path) -> None:
    publish(tmp_path, endpoint("my-llm"))

    with pytest.raises(SpecError, match=r"'my-llm' and 'My\.LLM' would both be RHAPSODY_SERVICE_MY_LLM_URL"):
        publish(tmp_path, endpoint("My.LLM"))

    assert [each.name for each in read_endpoints(tmp_path)] == ["my-llm"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a b", "a\n", "-a", ".a", "ä", "a" * 65, "a;b"])
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValidationError):
        endpoint(name)
    with pytest.raises(SpecError, match="cannot be the name of a service"):
        withdraw(tmp_path, name)
    with pytest.raises(SpecError):
        find_endpoint(tmp_path, name)


@pytest.mark.parametrize(
    "url",
    [
        "http://ada:s3cret@node7:8000",
        "http://s3cret@node7:8000/v1",
        "http://node7:8000/v1?token=s3cret",
        "http://node7:8000/#s3cret",
        "http://node7:8000/ s3cret",
        "http://node7:8000/\ns3cret",
        "node7:8000/s3cret",
        "http://node7:70000/s3cret",
        "http://node7:9/s3cret",
    ],
)
def test_a_url_that_holds_a_secret_or_is_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        endpoint(url=url)

    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"node": "node7;reboot"},
        {"node": "-oProxyCommand=x"},
        {"node": "node7\n"},
        {"node": ""},
        {"port": 0},
        {"port": 65536},
        {"port": "8000"},
        {"models": ["a\nb"]},
        {"key_file": "key"},
        {"key": "s3cret"},
        {"schema": 2},
    ],
)
def test_a_file_that_somebody_has_changed_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    file = publish(tmp_path, endpoint())
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))

    with pytest.raises(SpecError, match=r"llm\.json is no endpoint: ") as caught:
        find_endpoint(tmp_path, "llm")

    assert "s3cret" not in str(caught.value)


def test_a_file_under_another_services_name_is_refused(tmp_path: Path) -> None:
    file = publish(tmp_path, endpoint())
    file.rename(file.with_name("redis.json"))

    with pytest.raises(SpecError, match="it names the service 'llm'"):
        find_endpoint(tmp_path, "redis")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    publish(tmp_path, endpoint()).write_text('{"name": ')

    with pytest.raises(SpecError, match="is no endpoint"):
        read_endpoints(tmp_path)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "endpoints").write_text("a file")

    with pytest.raises(SpecError, match="endpoints is no folder; move it away"):
        publish(tmp_path, endpoint())
    with pytest.raises(SpecError, match="the run folder must be writable"):
        publish(tmp_path / "gone", endpoint())
