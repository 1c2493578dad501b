"""`rhapsody doctor` and `rhapsody connect` as users start them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rhapsody.services.endpoints import Endpoint, publish
from tests.integration.looking import rhapsody

if TYPE_CHECKING:
    from pathlib import Path


async def test_this_machine_is_fit_for_runs_without_a_batch_system(tmp_path: Path) -> None:
    ended = await rhapsody(tmp_path, "doctor", "--site", "local")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("local: This machine, without a batch system\n")
    assert list(tmp_path.iterdir()) == []


async def test_a_machine_that_is_not_the_site_is_told_what_is_wrong(tmp_path: Path) -> None:
    ended = await rhapsody(tmp_path, "doctor", "--site", "polaris", "-A", "abc", "--image", "none.sif", "--json")

    found = {finding["name"]: finding for finding in json.loads(ended.out)["findings"]}
    assert ended.code == 1
    assert (found["image"]["verdict"], found["image"]["text"]) == ("wrong", "none.sif is not there")


async def test_a_service_of_a_run_is_told_of(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "study-20261121-120000-0001"
    run_dir.mkdir(parents=True)
    (run_dir / "run.json").write_text("{}")
    publish(run_dir, Endpoint(name="llm", url="http://localhost:8000/v1", node="localhost", port=8000))

    ended = await rhapsody(tmp_path, "connect", "llm")

    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "service   llm on localhost, port 8000",
        "url       http://localhost:8000/v1",
        "note      localhost is this machine: no tunnel is needed here",
    ]
