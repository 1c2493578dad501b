"""Environments of the measured systems, and one run of one of them in a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.errors import BackendError
from rhapsody.experiments.peer_scripts import members
from rhapsody.experiments.peer_scripts.measure import Order, Report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.experiments.systems import System

HERE = Path(__file__).parent
BUILD_DEADLINE_S = 1800.0
GRACE_S = 10.0
_LAST_LINES = 15
_POLL_S = 0.05


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


def run(python: Path, script: Path, order: Order, deadline_s: float) -> tuple[Report, list[str]]:
    """Run a script in a fresh process and return its report, and what of the run had to be ended afterwards.

    However this ends, no process of the run is left, daemons included, and nothing in its scratch folder.

    Args:
        python: Interpreter with what the script imports.
        script: A file beside `measure.py`.
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
        command = [str(python), str(script), order.as_json()]
        with output.open("wb") as stream:
            process = subprocess.Popen(  # noqa: S603 - our own scripts
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                cwd=scratch,
                env=_environment(python, scratch, mark),
                start_new_session=True,
            )
        ended = False
        try:
            ended = _has_ended(process, within_s=deadline_s)
        finally:
            left = _end(process, mark)
        if not ended:
            raise BackendError(
                f"{script.name}: not done within {deadline_s:g} s, so it was ended.\n{_last_lines_of(output)}"
            )
        if process.returncode or not result.exists():
            raise BackendError(
                f"{script.name}: exit code {process.returncode}"
                f"{'' if result.exists() else ', no report'}.\n{_last_lines_of(output)}"
            )
        return Report(**json.loads(result.read_text())), left


def _environment(python: Path, scratch: str, mark: str) -> dict[str, str]:
    """Return the variables of a run: the user's, less those that would change what is measured."""
    dropped = ("PYTHON", "RHAPSODY_", "RAY_", "DASK_", "PARSL_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(dropped) and name != "VIRTUAL_ENV"}
    env |= {
        members.MARK_VARIABLE: mark,
        "PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
        "TMPDIR": scratch,
        "DO_NOT_TRACK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    if python == Path(sys.executable):
        env["PYTHONPATH"] = str(HERE.parents[1])  # this very package, also from a checkout that is not installed
    return env


def _has_ended(process: subprocess.Popen[bytes], *, within_s: float) -> bool:
    """Return whether a process ends in time, without waiting for it: so its number stays taken."""
    descriptor = os.pidfd_open(process.pid)
    try:
        return bool(select.select([descriptor], [], [], within_s)[0])
    finally:
        os.close(descriptor)


def _end(process: subprocess.Popen[bytes], mark: str) -> list[str]:
    """End what is left of a run: the leader by request first, everything else when it does not end by itself.

    Returns:
        The processes that outlived the time of grace.
    """
    if not _has_ended(process, within_s=0):
        process.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + GRACE_S
    while time.monotonic() < give_up and _living(process, mark):
        time.sleep(_POLL_S)
    left: dict[int, str] = {}
    while there := _living(process, mark):
        for pid in there:
            left.setdefault(pid, _describe(pid))
            _kill(pid)
        time.sleep(_POLL_S)
    process.wait()
    return list(left.values())


def _living(process: subprocess.Popen[bytes], mark: str) -> list[int]:
    found = [member.pid for member in members.find(mark, process.pid) if member.state != "Z"]
    return found if _has_ended(process, within_s=0) else [process.pid, *found]


def _describe(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it has just ended
        command = "?"
    return f"process {pid}: {command[:120]}"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it has just ended
        return


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
