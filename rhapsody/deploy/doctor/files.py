"""The folder of runs: can it be written, is there room, do all nodes see it, how long do files stay?"""

from __future__ import annotations

import datetime as dt
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody.deploy.doctor.finding import BATCH, Finding, answer, cannot_tell, ok, rounded, warning, wrong
from rhapsody.deploy.doctor.mounts import LUSTRE, Reach, expanded, mount_of, place_of, real
from rhapsody.deploy.sites.values import format_duration
from rhapsody.session.machine_commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rhapsody.deploy.doctor.finding import Patient
    from rhapsody.deploy.sites.profile import SiteProfile

_OTHER_FOLDER = "name another folder with --runs or RHAPSODY_RUNS"
_LEAST_FREE, _FEW_FREE = 100 * 10**6, 10 * 10**9
_LEAST_FILES, _FEW_FILES = 1_000, 100_000
_NEARLY = 0.9
_UNKNOWN_VARIABLE = re.compile(r"\$\{?(\w+)\}?")


def files(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield what is to be said of the folder of runs."""
    folder = nearest(patient.runs)
    yield _writable(patient.runs, folder)
    yield file_system(profile, patient)
    yield from _room(folder)
    yield from quota(folder, patient)
    yield from purge(profile, patient)


def nearest(path: Path) -> Path:
    """Return the path, or what there is of it from the top: where a folder that is not there would be made."""
    path = real(path)
    return next((each for each in (path, *path.parents) if each.exists()), Path("/"))


def _writable(runs: Path, folder: Path) -> Finding:
    name = "run folder"
    if runs.is_symlink() and not runs.exists():
        return wrong(name, f"{runs} is a link that leads nowhere", f"remove the link, or {_OTHER_FOLDER}")
    if not folder.is_dir():
        return wrong(name, f"{folder} is no folder", _OTHER_FOLDER)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
    except OSError as exc:
        return wrong(name, f"nothing can be written to {folder}: {exc.strerror}", _OTHER_FOLDER)
    return ok(name, f"{runs} can be written" if folder == real(runs) else f"{runs} can be made in {folder}")


def file_system(profile: SiteProfile, patient: Patient) -> Finding:
    """Return whether the nodes of jobs see the folder of runs."""
    name, place = "file system", place_of(patient.runs, profile, patient)
    text = f"{patient.runs} is on {place.words}"
    if profile.scheduler.kind not in BATCH or place.reach is Reach.ALL_NODES:
        return ok(name, text)
    scratch = profile.paths.scratch if profile.paths else None
    such_as = f", such as {expanded(scratch, patient)}" if scratch else ""
    fix = f"{_OTHER_FOLDER}, on a file system that all nodes see{such_as}"
    match place.reach:
        case Reach.THIS_NODE:
            return wrong(name, f"{text}: jobs run on other nodes and do not find it", fix)
        case Reach.LIKELY_THIS_NODE:
            return warning(name, f"{text}, which other nodes see only if it is exported to them", fix)
        case _:
            return cannot_tell(name, f"{text}; whether other nodes see it is not known", fix)


def _room(folder: Path) -> Iterator[Finding]:
    try:
        status = os.statvfs(folder)
    except OSError as exc:
        yield cannot_tell("space", f"{folder} does not say what is free: {exc.strerror}", "ask the facility: df")
        return
    yield space(folder, status.f_bavail * status.f_frsize)
    if status.f_files:  # some file systems have no such limit
        yield inodes(folder, status.f_favail)


def space(folder: Path, free: int) -> Finding:
    """Return whether there is room for the files of a run.

    Args:
        folder: Where.
        free: Bytes that this user may still write.
    """
    text = f"{rounded(free)} are free on the file system of {folder}"
    fix = f"remove what you do not need, or {_OTHER_FOLDER}"
    if free < _LEAST_FREE:
        return wrong("space", text, fix)
    return warning("space", text, fix) if free < _FEW_FREE else ok("space", text)


def inodes(folder: Path, free: int) -> Finding:
    """Return whether more files can be made.

    Args:
        folder: Where.
        free: How many.
    """
    text = f"{free:,} more files can be made on the file system of {folder}"
    fix = f"remove or pack small files, or {_OTHER_FOLDER}"
    if free < _LEAST_FILES:
        return wrong("files", text, fix)
    return warning("files", text, fix) if free < _FEW_FILES else ok("files", text)


def quota(folder: Path, patient: Patient) -> Iterator[Finding]:
    """Yield what is left of this user's quota, where the folder is on Lustre; elsewhere free space has to do."""
    mount = mount_of(folder, patient.root)
    if mount is None or mount.kind != LUSTRE:
        return
    by_hand = "ask the facility how much of your quota is left"
    if shutil.which("lfs") is None:
        yield cannot_tell("quota", f"{mount.point} is Lustre, but the command lfs is not on PATH", by_hand)
        return
    try:
        words = answer("lfs", "quota", "-q", "-u", patient.user, str(mount.point)).split()
    except CommandError as exc:
        yield cannot_tell("quota", str(exc), by_hand)
        return
    # Source: lfs-quota(1) of Lustre 2.15: path, then kbytes, soft, hard, grace, files, soft, hard, grace; a * marks
    # what is over the quota, brackets what some servers did not tell. 0 is no limit.
    numbers = [word.strip("*[]") for word in words[-8:]]
    if len(numbers) < 8 or not all(numbers[each].isdecimal() for each in (0, 2, 4, 6)):
        yield cannot_tell("quota", f"`lfs quota` answers {' '.join(words)[:80]!r}", by_hand)
        return
    used, hard, made, most = (int(numbers[each]) for each in (0, 2, 4, 6))
    yield _quota("quota", used * 1024, hard * 1024, f"{rounded(used * 1024)} of {rounded(hard * 1024)}", mount.point)
    yield _quota("quota of files", made, most, f"{made:,} of {most:,} files", mount.point)


def _quota(name: str, used: int, most: int, words: str, point: Path) -> Finding:
    if not most:
        return ok(name, f"you have no limit on {point}")
    text = f"{words} of your quota on {point} are used"
    fix = f"remove what you do not need, ask for more, or {_OTHER_FOLDER}"
    if used >= most:
        return wrong(name, text, fix)
    return warning(name, text, fix) if used > _NEARLY * most else ok(name, text)


def purge(profile: SiteProfile, patient: Patient) -> Iterator[Finding]:
    """Yield whether the site deletes files of the folder of runs, and of which runs next."""
    paths = profile.paths
    if paths is None or paths.scratch is None or paths.purge_after is None:
        return
    name, scratch = "purge", expanded(paths.scratch, patient)
    after = f"{paths.purge_after.days} days" if paths.purge_after.days else format_duration(paths.purge_after)
    if unset := _UNKNOWN_VARIABLE.search(scratch):
        yield cannot_tell(
            name,
            f"{profile.name} deletes files on {paths.scratch} after {after} without use; whether {patient.runs} lies"
            f" there is not known, since {unset[1]} is not set",
            "run this where you submit jobs; keep results elsewhere",
        )
    elif _lies_in(patient.runs, scratch):
        before = dt.datetime.now(dt.UTC).astimezone().date() - paths.purge_after
        yield warning(
            name,
            f"files in {patient.runs} are deleted after {after} without use, the runs of before {before} first",
            "copy what you keep to another file system"
            + (f", such as {expanded(paths.shared, patient)}" if paths.shared else ""),
        )
    else:
        yield ok(name, f"{patient.runs} is not on scratch, which is purged after {after}")


def _lies_in(path: Path, folder: str) -> bool:
    """Return whether a path lies in a folder, in which `{account}` stands for any."""
    pattern = re.escape(folder.rstrip("/")).replace(re.escape("{account}"), "[^/]+") + r"(/.*)?"
    paths = {str(path.absolute()), str(real(path))}
    if "{account}" not in folder and real(path).is_relative_to(real(Path(folder))):
        return True
    return any(re.fullmatch(pattern, each) for each in paths)
