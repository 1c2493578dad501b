"""A session in a plain script, and in what a notebook does: `await` at the top level, one cell after another."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SCRIPT = """
import asyncio
import dataclasses
from rhapsody import ComputeTask, Session

FACTOR = 3

@dataclasses.dataclass
class Pose:
    name: str
    score: float

def dock(name):
    return Pose(name, FACTOR * len(name))

def best(poses):
    return max(poses, key=lambda pose: pose.score)

async def main():
    async with Session(cores=2) as session:
        poses = [ComputeTask(dock, args=[name]) for name in ("a", "bbb", "cc")]
        winner = ComputeTask(best, args=[poses])
        said = ComputeTask(executable="echo", arguments=["the best is", ComputeTask(repr, args=[winner])])
        await session.submit([*poses, winner, said.arguments[1], said])
        pose = (await winner).return_value
        assert isinstance(pose, Pose), type(pose)
        print((await said).stdout.strip())

if __name__ == "__main__":
    asyncio.run(main())
"""

CELLS = [
    "from rhapsody import ComputeTask, Session, State",
    "session = await Session(cores=2)",
    "FACTOR = 2\ndef scaled(number):\n    return FACTOR * number",
    "tasks = await session.submit([ComputeTask(scaled, args=[number]) for number in range(5)])",
    "values = [(await task).return_value for task in tasks]",
    "FACTOR = 10",
    "later = ComputeTask(lambda number: FACTOR * number, args=[tasks[4]])\nawait session.submit(later)",
    "async for task in session.as_completed([later]):\n    seen = task.state",
    "array = await (await session.map(lambda number: FACTOR * number, range(3)))",
    "await session.aclose()\nleft = session.tasks",
]


def environment_of(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "RHAPSODY_RUNS": str(tmp_path / "runs"), "PYTHONPATH": os.pathsep.join(sys.path)}


def run(tmp_path: Path, *command: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment_of(tmp_path),
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def run_cell(source: str, names: dict[str, Any]) -> None:
    """Run one cell as a notebook does: in a shared namespace, on the loop that is running already."""
    code = compile(source, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(code, names)  # noqa: S307 - the cells above
    if inspect.isawaitable(result):
        await result


class TestScripts:
    def test_functions_and_classes_of_the_script_travel_both_ways(self, tmp_path: Path) -> None:
        (tmp_path / "campaign.py").write_text(SCRIPT)

        ran = run(tmp_path, "campaign.py")

        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == "the best is Pose(name='bbb', score=9)\n"
        (folder,) = (tmp_path / "runs").iterdir()
        assert (folder / "run.json").exists()

    def test_an_error_of_a_task_is_shown_with_the_line_of_the_script(self, tmp_path: Path) -> None:
        text = SCRIPT.replace("return Pose(name, FACTOR * len(name))", "raise ValueError('no such pose')")
        (tmp_path / "campaign.py").write_text(text)

        ran = run(tmp_path, "campaign.py")

        assert ran.returncode == 1
        assert "TaskFailed" in ran.stderr
        assert "raise ValueError('no such pose')" in ran.stderr
        assert "Task exception was never retrieved" not in ran.stderr

    def test_a_wrong_task_ends_the_script_with_one_clear_error(self, tmp_path: Path) -> None:
        (tmp_path / "campaign.py").write_text(SCRIPT.replace('executable="echo"', 'executable="no-such-program"'))

        ran = run(tmp_path, "campaign.py")

        assert ran.returncode == 1
        assert ran.stderr.strip().splitlines()[-1].startswith("rhapsody.errors.SpecError: task task.0")
        assert "'no-such-program' is not on PATH" in ran.stderr


class TestNotebooks:
    def test_cells_share_a_session_on_a_loop_that_runs_already(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def play() -> dict[str, Any]:
            names: dict[str, Any] = {"__name__": "__main__"}
            for cell in CELLS:
                await run_cell(cell, names)
            return names

        monkeypatch.setenv("RHAPSODY_RUNS", str(tmp_path))

        names = asyncio.run(play())

        assert names["values"] == [0, 2, 4, 6, 8]
        assert names["later"].return_value == 80
        assert names["seen"] == "DONE"
        assert names["array"].return_value == [0, 10, 20]
        assert names["left"] == []

    def test_the_asyncio_prompt_can_await_tasks(self, tmp_path: Path) -> None:
        lines = [
            "from rhapsody import ComputeTask, Session",
            "session = await Session(cores=1)",
            "task = ComputeTask(lambda: 6 * 7)",
            "_ = await session.submit(task)",
            "print('the answer is', (await task).return_value)",
            "await session.aclose()",
        ]

        ran = run(tmp_path, "-m", "asyncio", text="\n".join(lines) + "\n")

        assert "the answer is 42" in ran.stdout, ran.stderr
