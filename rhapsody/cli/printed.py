"""What a run and its tasks have printed: what `rhapsody logs` shows."""

from __future__ import annotations

import re
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from rhapsody.cli.job import job_watcher, run_and_job_are_over
from rhapsody.errors import JournalError, SpecError
from rhapsody.model.event import State
from rhapsody.model.outcome import Completed
from rhapsody.session.task_status import TaskWatcher
from rhapsody.telemetry.results import KeptReader, Left, Place, ValueMissing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rhapsody.session.task_status import TaskStatus

LOOK_EVERY_S = 0.2
_PIECE_BYTES = 1 << 20
_RUN_LOG = re.compile(r"session\.log|workers-.*\.log")
_JOB_OUTPUT = re.compile(r"job-(\d+)\.out|.*\.o(\d+)")
"""What a job itself prints, as Slurm is told to name it, or as PBS does."""


# Of a run


class _Log:
    """One file of a run's logs, shown line by line behind its name.

    Args:
        path: Of the file.
        name: Stands before each line.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._prefix = f"{name} | "
        self._position = 0
        self._begun = b""

    def new_lines(self, *, at_end: bool) -> Iterator[str]:
        """Yield lines that were not shown before; one that is not ended only when nothing more comes."""
        for piece in _pieces(self._path, self._position):
            self._position += len(piece)
            *whole, self._begun = (self._begun + piece).split(b"\n")
            for line in whole:
                yield self._prefix + line.decode(errors="replace")
        if at_end and self._begun:
            yield self._prefix + self._begun.decode(errors="replace")
            self._begun = b""


def show_run(folder: Path, *, follow: bool) -> None:
    """Print the logs of a run."""
    known: dict[Path, _Log] = {}
    shown = False
    job = job_watcher(folder)
    while True:
        at_end = not follow or run_and_job_are_over(folder, job)  # asked first: what comes after it is nothing new
        for path, name in _run_logs(folder):
            log = known.setdefault(path, _Log(path, name))
            for line in log.new_lines(at_end=at_end):
                _write(f"{line}\n".encode(errors="replace"))
                shown = True
        sys.stdout.flush()
        if at_end:
            break
        time.sleep(LOOK_EVERY_S)
    if not shown:
        click.echo(f"the logs of {folder.name} are empty; how it is: rhapsody status {folder}", err=True)


def _run_logs(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files of a run's sessions, in their order, then those of its jobs, with what to call them."""
    for session, logs_folder in _log_folders(folder):
        names = sorted(name for name in _names_in(logs_folder) if _RUN_LOG.fullmatch(name))
        for name in names:
            short = name.removesuffix(".log")
            yield logs_folder / name, short if session == 1 else f"{session}/{short}"
    for name in sorted(_names_in(folder / "deploy")):
        if match := _JOB_OUTPUT.fullmatch(name):
            yield folder / "deploy" / name, f"job-{match[1] or match[2]}"


# Of a task


class _Output(NamedTuple):
    """One file that a task prints into; the newest is the greatest."""

    session: int
    attempt: int
    path: Path


def show_task(folder: Path, uid: str, *, stderr: bool, follow: bool) -> bool:
    """Print the whole output of a task; return False where there is none, after saying what is known.

    Raises:
        SpecError: The run has no such task.
    """
    watcher = TaskWatcher(folder, uid)
    job = job_watcher(folder)
    output: _Output | None = None
    position = 0
    while True:
        run_is_over = run_and_job_are_over(folder, job)
        task = watcher.look()
        at_end = not follow or run_is_over or (task is not None and task.state.is_final)
        newest = max(_outputs(folder, uid, ".err" if stderr else ".out"), default=None)
        if newest is not None:
            if output is not None and newest != output:
                click.echo(f"rhapsody: attempt {newest.attempt} of {uid}", err=True)
            position = position if newest == output else 0
            output = newest
            for piece in _pieces(output.path, position):
                position += len(piece)
                _write(piece)
            sys.stdout.flush()
        if at_end:
            break
        time.sleep(LOOK_EVERY_S)
    if output is not None:
        return True
    if task is not None and task.place is not None and _show_kept(folder, task, stderr=stderr):
        return True
    _tell_of(folder, uid, task)
    return False


def _show_kept(folder: Path, task: TaskStatus, *, stderr: bool) -> bool:
    """Print what is kept of a task's output for resuming; return whether there is any."""
    try:
        kept = KeptReader(folder, lambda _: None).read(Place(*(task.place or (0, 0))))
    except (ValueMissing, JournalError):
        return False
    if not isinstance(kept, Left | Completed):
        return False
    text = kept.stderr if stderr else kept.stdout
    _write(text.encode(errors="replace"))
    sys.stdout.flush()
    other = "standard output" if stderr else "standard error, see --stderr"
    if not text and (kept.stdout or kept.stderr):
        click.echo(f"rhapsody: {task.uid} is {task.state} and printed to {other} only", err=True)
    return bool(kept.stdout or kept.stderr)


def _outputs(folder: Path, uid: str, ending: str) -> Iterator[_Output]:
    """Yield the files of a task; the folder is listed, since a uid is not to be trusted as part of a path."""
    name_of = re.compile(rf"{re.escape(uid)}\.(\d+){re.escape(ending)}")
    for session, logs_folder in _log_folders(folder):
        for name in _names_in(logs_folder):
            if match := name_of.fullmatch(name):
                yield _Output(session, int(match[1]), logs_folder / name)


def _tell_of(folder: Path, uid: str, task: TaskStatus | None) -> None:
    """Say what is known of a task without kept output.

    Raises:
        SpecError: Nothing is: the run has no such task.
    """
    if task is None:
        raise SpecError(
            f"the run {folder.name} has no task {uid!r}; a task has the uid that you gave it, or one such as"
            " task.000001; those that failed are in: rhapsody status"
        )
    lines = [f"nothing is kept of what {uid} ({task.label}) printed; it is {task.state}, attempt {task.attempt}"]
    if task.detail:
        lines[0] += f": {task.detail.rstrip()}"
    if task.kind == "map":
        lines.append("what items of a map print goes to the logs of the workers: rhapsody logs, without --task")
    elif task.state in {State.WAITING, State.READY}:
        lines.append("it has not started")
    else:
        lines.append("capture_stdio=True of a task keeps all it prints, else the last of it is kept")
    click.echo("\n".join(lines), err=True)


# Files


def _log_folders(folder: Path) -> Iterator[tuple[int, Path]]:
    """Yield the log folders of a run's sessions: `logs/`, then `logs/2/` and so on."""
    top = folder / "logs"
    yield 1, top
    for number in sorted(int(name) for name in _names_in(top) if name.isdecimal()):
        yield number, top / str(number)


def _names_in(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise SpecError(f"cannot read {folder}: {exc.strerror}; ask its owner for access") from exc


def _pieces(path: Path, position: int) -> Iterator[bytes]:
    """Yield what a file holds from a position on."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            yield from iter(lambda: file.read(_PIECE_BYTES), b"")
    except OSError as exc:
        raise SpecError(f"cannot read {path}: {exc.strerror}; ask its owner for access") from exc


def _write(data: bytes) -> None:
    """Print bytes as they are."""
    sys.stdout.buffer.write(data)
