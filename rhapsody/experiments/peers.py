"""Environments of the measured systems, and one run of one of them in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.backends.dragon import surroundings
from rhapsody.errors import BackendError
from rhapsody.experiments.leftovers import RunningScript
from rhapsody.experiments.peer_scripts import members
from rhapsody.experiments.peer_scripts.measure import Order, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.experiments.systems import System

HERE = Path(__file__).parent
BUILD_DEADLINE_S = 1800.0
_LAST_LINES = 15
_AS_A_CHILD = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
"""Dragon 0.15.0 hangs when it leads a session: this shell does."""


def environments_folder() -> Path:
    """Return the folder that holds the peers' environments."""
    return Path(os.environ.get("RHAPSODY_BENCH_ENVS") or ".bench-envs").resolve()


def prepare(system: System) -> Path:
    """Return the Python interpreter of a system; its environment is built when it is missing or out of date.

    Raises:
        BackendError: It could not be built; the text has the last lines of pip's output.
    """
    if not system.own_environment:
        return Path(sys.executable)
    requirements = HERE / "peer_requirements" / f"{system.name}.txt"
    envs = environments_folder()
    envs.mkdir(parents=True, exist_ok=True)
    env = envs / system.name
    made_from = env / ".made-from"
    wanted = f"{sys.version}\n{requirements.read_text()}"
    with _locked(envs / f".{system.name}.lock"):
        if not made_from.exists() or made_from.read_text() != wanted:
            _build(env, requirements)
            made_from.write_text(wanted)
    return env / "bin" / "python"


def _build(env: Path, requirements: Path) -> None:
    python = env / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(env)],
        [*pip, "--requirement", str(requirements)],
    ):
        try:
            done = subprocess.run(  # noqa: S603 - pip and venv, with our own arguments
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=BUILD_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise BackendError(f"{' '.join(command)}: not done within {BUILD_DEADLINE_S:g} s, so it was ended") from exc
        if done.returncode:
            raise BackendError(
                f"{' '.join(command)}: exit code {done.returncode}; the environment {env} is not usable.\n"
                f"{_last_lines(done.stdout.decode(errors='replace'))}"
            )


class Launch(NamedTuple):
    """How a script is started.

    Attributes:
        python: Interpreter with what the script imports.
        script: A file beside `measure.py`.
        over_dragon: Whether it runs inside Dragon, on this node.
        kept: Beginnings of variables of ours that it gets nevertheless.
    """

    python: Path
    script: Path
    over_dragon: bool = False
    kept: tuple[str, ...] = ()

    @property
    def command(self) -> list[str]:
        """The words before the order."""
        if self.over_dragon:
            return [*_AS_A_CHILD, str(self.python.parent / "dragon"), "-s", str(self.script)]
        return [str(self.python), str(self.script)]


def run(launch: Launch, order: Order, deadline_s: float) -> tuple[Report, list[str]]:
    """Run a script in a fresh process and return its report, and what of the run had to be ended afterwards.

    However this ends, no process of the run is left, daemons included, and nothing in its scratch folder or in shared
    memory.

    Args:
        launch: What is started.
        order: What to do; `scratch` and `result` are filled in here.
        deadline_s: Seconds after which the run is ended.

    Raises:
        BackendError: It failed, or the deadline passed; the text has the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="rhapsody-", ignore_cleanup_errors=True) as scratch:
        result = Path(scratch, "report.json")
        output = Path(scratch, "output.txt")
        order = replace(order, scratch=scratch, result=str(result))
        mark = uuid.uuid4().hex
        environment = _environment(launch, scratch, mark)
        with output.open("wb") as stream:
            process = subprocess.Popen(  # noqa: S603 - our own scripts
                [*launch.command, order.as_json()],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env=environment,
                start_new_session=True,
            )
        running = RunningScript(process, mark)
        in_time = False
        try:
            in_time = running.wait(result, deadline_s)
        finally:
            left = running.end(Path(scratch))
        name = launch.script.name
        if not in_time:
            raise BackendError(f"{name}: not done within {deadline_s:g} s, so it was ended.\n{_last_lines_of(output)}")
        if (running.ended_itself and process.returncode) or not result.exists():
            raise BackendError(
                f"{name}: exit code {process.returncode}"
                f"{'' if result.exists() else ', no report'}.\n{_last_lines_of(output)}"
            )
        return Report(**json.loads(result.read_text())), left


def _environment(launch: Launch, scratch: str, mark: str) -> dict[str, str]:
    """Return the variables of a run: the user's, less those that would change what is measured."""
    dropped = ("PYTHON", "RHAPSODY_", "RAY_", "DASK_", "PARSL_")
    env = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(launch.kept) or (not name.startswith(dropped) and name != "VIRTUAL_ENV")
    }
    env |= {
        members.MARK_VARIABLE: mark,
        "PATH": f"{launch.python.parent}:{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": scratch,
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if launch.over_dragon:
        env |= surroundings.variables(surroundings.free_shared_memory(), len(os.sched_getaffinity(0)), env)
    if launch.python == Path(sys.executable):
        env["PYTHONPATH"] = str(HERE.parents[1])  # this very package, also from a checkout that is not installed
    return env


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time build an environment."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _last_lines_of(path: Path) -> str:
    return _last_lines(path.read_text(errors="replace"))


def _last_lines(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines()[-_LAST_LINES:]) or "  | (it wrote nothing)"
