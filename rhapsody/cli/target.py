"""TARGET: which run a command speaks of, and what all commands that look at runs share."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rhapsody.cli.faults import exit_code_of, explain
from rhapsody.errors import RhapsodyError, SpecError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_STAMP = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]{4}$")
_JOB_ID = re.compile(r"\d+(?:\.[A-Za-z0-9][A-Za-z0-9.-]*)?")
_NAMES_SHOWN = 5


def find_run(target: str | None, runs: Path | None = None) -> Path:
    """Return the run folder that a user means.

    Args:
        target: Path of a run folder, a run's uid, or the beginning of one that no other uid has, or the id of a job
            that runs it; the newest when None.
        runs: Folder of all runs; `$RHAPSODY_RUNS`, else `./runs`, when None.

    Raises:
        SpecError: There is none, it may not be read, or more than one is meant; the text lists what there is.
    """
    if target is None:
        found = list_runs(runs)
        if not found:
            raise SpecError(f"there are no runs in {runs_folder(runs)}; {_OTHER_PLACE}")
        return found[0]
    if os.sep in target or target in {".", ".."}:
        return _run_at(Path(target).expanduser())
    parent = runs_folder(runs)
    if target and _is_run(parent / target):
        return (parent / target).resolve()
    if Path(target).is_dir() and _is_run(Path(target)):
        return Path(target).resolve()
    return _only_one(target, list_runs(runs), parent)


def find_job(target: str, runs: Path | None = None) -> str:
    """Return the id of the job that a user means.

    Args:
        target: A job's id, or a run that was deployed: its folder, its uid, or the beginning of one.
        runs: Folder of all runs.

    Raises:
        SpecError: There is no such run, or it has no job.
    """
    from rhapsody.deploy.records import last_job_id, read_jobs  # noqa: PLC0415 - slow to import

    if _JOB_ID.fullmatch(target):
        return target
    folder = find_run(target, runs)
    job_id = last_job_id(read_jobs(folder))
    if job_id is None:
        raise SpecError(f"the run {folder.name} was not submitted as a job; give the id of one")
    return job_id


def list_runs(runs: Path | None = None) -> list[Path]:
    """Return the run folders in a folder, the newest first; those that this user may not look into are left out.

    Args:
        runs: Folder of all runs; `$RHAPSODY_RUNS`, else `./runs`, when None.

    Raises:
        SpecError: The folder does not exist, or may not be read.
    """
    parent = runs_folder(runs)
    try:
        with os.scandir(parent) as entries:
            found = [parent / entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        raise SpecError(f"there are no runs: the folder {parent} does not exist; {_OTHER_PLACE}") from None
    except OSError as exc:
        raise SpecError(f"the folder of runs {parent} cannot be read: {exc.strerror}; {_OTHER_PLACE}") from exc
    return _newest_first([folder for folder in found if _may_be_read(folder)])


def runs_folder(runs: Path | None = None) -> Path:
    """Return the folder of all runs: the one given, `$RHAPSODY_RUNS`, or `./runs`."""
    return Path(runs or os.environ.get("RHAPSODY_RUNS") or "runs").expanduser().absolute()


_OTHER_PLACE = "give the path of a run folder, or the folder of runs with --runs or RHAPSODY_RUNS"


def runs_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--runs` to a command; its parameter is `runs`."""
    return click.option(
        "--runs",
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="RHAPSODY_RUNS",
        show_envvar=True,
        help="Folder of all runs; ./runs, unless given.",
    )(command)


def target_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `[TARGET]` and `--runs` to a command; its parameters are `target` and `runs`."""
    return click.argument("target", required=False)(runs_option(command))


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn an error of ours into its text on standard error and an exit code: 2 for wrong input, 1 for the rest."""
    try:
        yield
    except RhapsodyError as exc:
        click.echo(f"Error: {explain(exc)}", err=True)
        raise click.exceptions.Exit(exit_code_of(exc)) from exc


def _run_at(folder: Path) -> Path:
    """Return the run folder at a path."""
    if _is_run(folder):
        return folder.resolve()  # its name is the run's uid: so neither `..` nor a link called `latest`
    if not folder.is_dir():
        raise SpecError(f"the run folder {folder} does not exist{_nearby(folder.absolute().parent)}")
    raise SpecError(f"{folder} is no run folder: it has neither run.json nor journal/{_nearby(folder)}")


def _only_one(prefix: str, found: Sequence[Path], parent: Path) -> Path:
    """Return the run whose uid begins so."""
    meant = [folder for folder in found if folder.name.startswith(prefix)] if prefix else []
    if not meant and _JOB_ID.fullmatch(prefix):
        meant = _of_job(prefix, found)
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise SpecError(
            f"{prefix!r} may be any of {len(meant)} runs in {parent}; give more of its name:{_names(meant)}"
        )
    there = f"; the newest there:{_names(found)}" if found else f", nor any other; {_OTHER_PLACE}"
    raise SpecError(f"there is no run {prefix!r} in {parent}{there}")


def _of_job(job_id: str, found: Sequence[Path]) -> list[Path]:
    """Return the newest run that a job runs, or is to run: batch systems use ids again."""
    from rhapsody.deploy.records import has_job  # noqa: PLC0415 - slow to import

    return [folder for folder in found if has_job(folder, job_id)][:1]


def _nearby(folder: Path) -> str:
    """Return what runs a folder has, as the end of an error's text."""
    try:
        found = list_runs(folder)
    except SpecError:
        found = []
    return f"; runs in {folder}:{_names(found)}" if found else f"; {_OTHER_PLACE}"


def _names(found: Sequence[Path]) -> str:
    lines = [f"\n  {folder.name}" for folder in found[:_NAMES_SHOWN]]
    more = [f"\n  and {len(found) - _NAMES_SHOWN} more: rhapsody list"] if len(found) > _NAMES_SHOWN else []
    return "".join(lines + more)


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "run.json").is_file() or (folder / "journal").is_dir()
    except OSError as exc:
        raise SpecError(f"the run folder {folder} cannot be read: {exc.strerror}; ask its owner for access") from exc


def _may_be_read(folder: Path) -> bool:
    try:
        return _is_run(folder)
    except SpecError:
        return False


def _newest_first(found: Sequence[Path]) -> list[Path]:
    """Sort by the time in the name, so that a long list needs no file to be read; only equal ones by `run.json`."""
    stamps = {folder: _stamp(folder) for folder in found}
    times = Counter(stamps.values())
    exact = {folder: _started_ns(folder) for folder, stamp in stamps.items() if times[stamp] > 1}
    return sorted(found, key=lambda folder: (stamps[folder], exact.get(folder, 0), folder.name), reverse=True)


def _stamp(folder: Path) -> str:
    match = _STAMP.search(folder.name)
    if match:
        return match[1]
    changed = datetime.fromtimestamp(folder.stat().st_mtime).astimezone()  # it was renamed
    return changed.strftime("%Y%m%d-%H%M%S")


def _started_ns(folder: Path) -> int:
    try:
        started = json.loads((folder / "run.json").read_bytes()).get("started_ns", 0)
    except (OSError, ValueError, AttributeError):
        return 0
    return started if isinstance(started, int) else 0
