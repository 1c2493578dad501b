"""`rhapsody connect`: which run and service it means, what it prints and writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from rhapsody.cli.connect import connect
from rhapsody.deploy.records import How, Record, write_record
from rhapsody.deploy.script.request import ScriptRequest
from rhapsody.deploy.sites.loading import load_site
from rhapsody.services.endpoints import Endpoint, publish

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW = "study-20261120-120000-0001", "study-20261121-120000-0002"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs, each with a service on node7: the old one on port 8000, the new one on port 8001."""
    monkeypatch.setenv("RHAPSODY_RUNS", str(tmp_path))
    for uid, port in ((OLD, 8000), (NEW, 8001)):
        (tmp_path / uid / "deploy").mkdir(parents=True)
        (tmp_path / uid / "run.json").write_text("{}")
        publish(
            tmp_path / uid, Endpoint(name="llm", url=f"http://node7:{port}/v1", node="node7", port=port, models=("m",))
        )
    return tmp_path


def deployed(run_dir: Path) -> None:
    """Let a run be one that was deployed at Frontier."""
    script = ScriptRequest(
        scheduler="slurm",
        site="frontier",
        job_name="study",
        nodes=1,
        walltime_s=3600,
        run_dir=str(run_dir),
        work_dir=str(run_dir),
        script_path=str(run_dir / "deploy" / "job.sh"),
        command=("rhapsody", "run", "study.py"),
    )
    record = Record(
        version="1",
        submitted_s=0.0,
        how=How.BATCH,
        campaign="study.py",
        script=script,
        profile=load_site("frontier", {}),
    )
    write_record(run_dir, record, "#!/bin/bash\n")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(connect, arguments)


def test_one_word_is_a_service_of_the_newest_run(runs: Path) -> None:
    deployed(runs / NEW)

    result = run("llm", "--user", "ada")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "service   llm on node7, port 8001",
        "models    m",
        "tunnel    ssh -L 8001:node7:8001 ada@frontier.olcf.ornl.gov    # on your own machine; leave it running",
        "url       http://127.0.0.1:8001/v1",
    ]


def test_two_words_are_a_run_and_its_service(runs: Path) -> None:
    deployed(runs / OLD)

    found = json.loads(run("study-20261120", "llm", "--user", "ada", "--port", "9001", "--json").stdout)

    assert found["tunnel"] == "ssh -L 9001:node7:8000 ada@frontier.olcf.ornl.gov"
    assert (found["url"], found["url_inside"]) == ("http://127.0.0.1:9001/v1", "http://node7:8000/v1")


def test_a_run_that_was_not_deployed_has_its_services_where_they_listen(runs: Path) -> None:
    found = json.loads(run("llm", "--json").stdout)

    assert (found["tunnel"], found["url"]) == (None, "http://node7:8001/v1")


def test_a_file_for_clients_is_written(runs: Path) -> None:
    deployed(runs / NEW)

    result = run("llm", "--user", "ada", "--out", str(runs / "llm.json"))

    assert result.stdout.splitlines()[-1] == f"wrote {runs / 'llm.json'}"
    assert json.loads((runs / "llm.json").read_text())["url"] == "http://127.0.0.1:8001/v1"


def test_an_unknown_service_is_an_error_of_the_input(runs: Path) -> None:
    result = run("redis")

    assert result.exit_code == 2
    assert "Error: unknown service 'redis'; valid: llm" in result.stderr


@pytest.mark.parametrize("words", [(), ("a", "b", "c")])
def test_a_name_and_at_most_a_run_are_taken(runs: Path, words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
