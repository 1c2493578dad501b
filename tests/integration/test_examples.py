"""The examples and the code in the documentation: they run as they stand, and do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.requirements import needs_command, needs_module

ROOT = Path(__file__).parents[2]
RHAPSODY = str(Path(sys.executable).with_name("rhapsody"))
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(
    command: list[str], folder: Path, *, path: str | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, which gets its run folders too; with another search path if one is given."""
    env = os.environ | ({"PATH": path} if path is not None else {})
    return subprocess.run(command, cwd=folder, env=env, input=typed, capture_output=True, text=True, check=False)


def run_example(name: str, *args: str, folder: Path, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run an example as its README says."""
    return run([RHAPSODY, "run", str(ROOT / "examples" / name), *args], folder, path=path)


def blocks(document: str, language: str) -> list[str]:
    """Return the code blocks of a document in one language."""
    return [text for kind, text in BLOCK.findall((ROOT / document).read_text()) if kind == language]


GUIDE = blocks("docs/campaigns.md", "python")


def only(pattern: str, text: str) -> str:
    """Return what the only match of a pattern with one group has caught."""
    (found,) = re.findall(pattern, text, re.MULTILINE)
    return str(found)


def assert_ended_well(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"


def test_quickstart_prints_pi_and_leaves_a_run_folder(tmp_path: Path) -> None:
    ended = run_example("quickstart.py", "--cores", "2", folder=tmp_path)

    assert_ended_well(ended)
    assert "pi is 3.14" in ended.stdout
    assert "the sum of 100,000 square roots is 21081692.75" in ended.stdout
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_model_is_asked_beside_functions_and_gives_the_same_answers_each_time(tmp_path: Path) -> None:
    first, second = (run_example("ask_models.py", "--cores", "4", folder=tmp_path) for _ in range(2))

    assert_ended_well(first)
    assert "most said: {'the': 92, " in first.stdout
    assert "40 questions were answered by 2 replicas" in first.stdout
    assert only("^(most said: .*)$", first.stdout) == only("^(most said: .*)$", second.stdout)


def test_quickstart_throws_as_often_as_its_argument_says(tmp_path: Path) -> None:
    ended = run_example("quickstart.py", "--cores", "2", "3", folder=tmp_path)

    assert_ended_well(ended)
    assert len(re.findall(r"^task\.\d+: ", ended.stdout, re.MULTILINE)) == 3


@pytest.mark.timeout(600)
@needs_command("mpiexec", package="openmpi-bin")
@needs_module("mpi4py", install="mpi4py")
def test_hybrid_campaign_finds_the_optimum_with_hundreds_of_tasks_of_six_types(tmp_path: Path) -> None:
    ended = run_example("hybrid_campaign.py", "--cores", "8", folder=tmp_path)

    assert_ended_well(ended)
    errors = [float(error) for error in re.findall(r"^ +\S+ +\d+ +([\d.]+) kT", ended.stdout, re.MULTILINE)]
    assert len(errors) == 9
    assert errors[-1] < errors[0] / 4
    optimum = float(only(r"^Exact: .* (-[\d.]+) ±", ended.stdout))
    assert float(only(r"^Found: .* exact free energy is (-[\d.]+) kT", ended.stdout)) < optimum + 0.1
    assert int(only(r"^Tasks:  (\d+) ", ended.stdout)) >= 500
    assert int(only(r"^Types:  (\d+) ", ended.stdout)) == 6
    assert int(only(r"up to (\d+) of them were running", ended.stdout)) >= 3
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(list((folder / "results").glob("poses-*.npy"))) >= 10
    assert list((folder / "journal").iterdir())


@pytest.mark.timeout(300)
@needs_module("numpy", install="numpy")
def test_hybrid_campaign_runs_serially_and_says_so_when_there_is_no_mpi(tmp_path: Path) -> None:
    ended = run_example("hybrid_campaign.py", "--cores", "2", "2", folder=tmp_path, path=str(tmp_path))

    assert_ended_well(ended)
    assert "No mpiexec or no mpi4py" in ended.stdout
    assert int(only(r"^Types:  (\d+) ", ended.stdout)) == 1
    assert int(only(r"(\d+) executables", ended.stdout)) >= 1


def test_example_of_the_readme_prints_what_the_readme_says(tmp_path: Path) -> None:
    (campaign,) = blocks("README.md", "python")
    (console,) = [block for block in blocks("README.md", "console") if "rhapsody run" in block]
    command, output = console.split("\n", 1)
    (tmp_path / "campaign.py").write_text(campaign)

    ended = run([RHAPSODY, *command.removeprefix("$ .venv/bin/rhapsody").split()], tmp_path)

    assert_ended_well(ended)
    assert ended.stdout == output


@pytest.mark.parametrize("code", [block for block in GUIDE if "async def campaign" in block])
def test_campaign_of_the_guide_runs_as_it_stands(code: str, tmp_path: Path) -> None:
    (tmp_path / "campaign.py").write_text(code)

    ended = run([RHAPSODY, "run", "campaign.py", "--cores", "2"], tmp_path)

    assert_ended_well(ended)
    assert ended.stdout


def test_script_of_the_guide_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = [block for block in GUIDE if "asyncio.run" in block]
    (tmp_path / "script.py").write_text(code)

    ended = run([sys.executable, "script.py"], tmp_path)

    assert_ended_well(ended)
    assert ended.stdout == "2025\n"


def test_notebook_of_the_guide_runs_line_by_line(tmp_path: Path) -> None:
    (code,) = [block for block in GUIDE if "await Session(" in block]

    ended = run([sys.executable, "-m", "asyncio"], tmp_path, typed=code)

    assert_ended_well(ended)
    assert "42" in ended.stdout
