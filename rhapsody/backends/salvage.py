"""After a session has died: what of it is still there is ended, and what became of its attempts is read.

A started pool is on record in the run folder, so that whoever goes on with the run finds its guardian, and what the
guardian has written.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from rhapsody.abc import Aftermath, Report
from rhapsody.backends import shared_memory, wire
from rhapsody.backends.member import Lane, Member
from rhapsody.backends.notebook import read_left
from rhapsody.backends.pool_folder import remove_dead_pool_folder
from rhapsody.errors import BackendError
from rhapsody.model.event import State
from rhapsody.node.files import write_whole
from rhapsody.node.processes import boot_id, end_marked, started_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rhapsody.backends.notebook import NotedChunk, WorkerNotes

GUARDIAN_LIMIT_S = 30.0
"""A guardian gives workers and what they leave seven seconds to end, then writes what they have noted."""
ELSEWHERE_LIMIT_S = 15.0
END_LIMIT_S = 5.0
_POLL_S = 0.02


class Deployed(NamedTuple):
    """A pool on record.

    Attributes:
        node: Name of the node in the allocation.
        host: Name of the machine.
        boot: Tells its boots apart.
        guardian: Process id of the guardian.
        started: When that was started, in clock ticks since boot.
        folder: The pool's private folder.
        variable: Variable that all its processes were started with.
        mark: Its value.
    """

    node: str
    host: str
    boot: str
    guardian: int
    started: int
    folder: str
    variable: str
    mark: str

    @classmethod
    def here(cls, node: str, guardian: int, folder: Path, mark: tuple[str, str]) -> Deployed:
        """Return the record of a pool on this machine."""
        return cls(node, socket.gethostname(), boot_id(), guardian, started_at(guardian) or 0, str(folder), *mark)

    @property
    def is_alive(self) -> bool:
        """Whether its guardian runs, on this machine."""
        return started_at(self.guardian) == self.started


def left_path(run_dir: Path, session: int, node: str) -> Path:
    """Return the file that a node's guardian writes when its session dies."""
    return run_dir / "journal" / f"left.{session}.{quote(node, safe='')}"


def record_path(run_dir: Path, session: int, rank: int = 0) -> Path:
    """Return the file that says what a session has started on a node of the allocation."""
    return run_dir / "deploy" / (f"pool.{session}.{rank}.json" if rank else f"pool.{session}.json")


def shared_folder(run_dir: Path, session: int) -> Path:
    """Return the folder for what all nodes of a session have to see."""
    return run_dir / "deploy" / f"shared.{session}"


def write_record(path: Path, deployed: Deployed) -> None:
    """Put a pool on record, whole or not at all.

    Raises:
        BackendError: It could not be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, f"{json.dumps(deployed._asdict(), indent=2)}\n".encode(), durable=True)
    except OSError as exc:
        raise BackendError(f"what was started could not be put on record in {path}: {exc.strerror}") from exc


def _record_paths(run_dir: Path, session: int) -> list[Path]:
    first = record_path(run_dir, session)
    return [path for path in (first, *sorted(first.parent.glob(f"pool.{session}.*.json"))) if path.exists()]


def _read_record(path: Path) -> Deployed:
    try:
        return Deployed(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as exc:
        raise BackendError(
            f"{path}, which says what the session before had started, cannot be read: {exc}; make sure that nothing of"
            " it runs any more, then remove the file"
        ) from exc


async def recover(run_dir: Path, session: int) -> Aftermath:
    """Clear away what a session's pools have left, and say what became of its attempts; see `Backend.recover`.

    A pool on another machine can neither be watched nor ended from here: its guardian is given some seconds to write
    what its workers have noted, and to end them, which it does by itself.

    Raises:
        BackendError: Something of it is still there and cannot be ended.
    """
    elsewhere_until = time.monotonic() + ELSEWHERE_LIMIT_S
    pools = [_read_record(path) for path in _record_paths(run_dir, session)]
    for pool in pools:
        await _clear(pool, left_path(run_dir, session, pool.node), elsewhere_until)
    shutil.rmtree(shared_folder(run_dir, session), ignore_errors=True)
    missing = [pool.node for pool in pools if not left_path(run_dir, session, pool.node).exists()]
    aftermath = await _aftermath(run_dir, session)
    return aftermath._replace(complete=aftermath.complete and not missing)


async def _clear(deployed: Deployed, left: Path, elsewhere_until: float) -> None:
    """Wait until a pool has ended by itself; on this machine, end what is still there of it."""
    if deployed.host != socket.gethostname():
        await _true_within(elsewhere_until - time.monotonic(), left.exists)
        return
    if deployed.boot == boot_id():
        await _end(deployed)
        shared_memory.sweep(Path(deployed.folder))
    remove_dead_pool_folder(Path(deployed.folder))


async def _end(deployed: Deployed) -> None:
    """Wait until a guardian has done its work; end what is still there of its pool."""
    await _true_within(GUARDIAN_LIMIT_S, lambda: not deployed.is_alive)
    deadline = time.monotonic() + END_LIMIT_S
    while await asyncio.to_thread(end_marked, deployed.variable, deployed.mark):
        if time.monotonic() > deadline:
            raise BackendError(
                f"processes of the session that died are still there on {deployed.host} and cannot be ended; find them"
                f" with: grep -l {deployed.variable}={deployed.mark} /proc/[0-9]*/environ"
            )
        await asyncio.sleep(_POLL_S)


async def _true_within(limit_s: float, is_true: Callable[[], bool]) -> None:
    """Return once something is true, or after so long."""
    deadline = time.monotonic() + limit_s
    while not is_true() and time.monotonic() < deadline:  # noqa: ASYNC110 - the event is another process's
        await asyncio.sleep(_POLL_S)


def _left_paths(run_dir: Path, session: int) -> list[Path]:
    return sorted(path for path in (run_dir / "journal").glob(f"left.{session}.*") if not path.name.endswith(".part"))


async def _aftermath(run_dir: Path, session: int) -> Aftermath:
    reports: list[Report] = []
    damage: list[str] = []
    paths = _left_paths(run_dir, session)
    complete = bool(paths)
    for path in paths:
        try:
            left = await asyncio.to_thread(read_left, path)
        except (OSError, ValueError) as exc:
            damage.append(f"{path}, in which results of the session that died are, cannot be used: {exc}")
            continue
        complete = complete and left.complete
        for worker in left.workers:
            reports += reports_of(worker)
    return Aftermath(tuple(reports), complete and not damage, "; ".join(damage))


def reports_of(worker: WorkerNotes) -> list[Report]:
    """Return what became of the attempts that a worker started: how they ended, or RUNNING if they did not."""
    ended = set(_sequences(worker.records))
    current = worker.words[wire.CURRENT]
    started = ended if current == worker.words[wire.SKIPPED] else {*ended, current}
    reader = Member(0, Lane(""))
    for chunk in worker.chunks:
        for index, number in enumerate(chunk.numbers):
            if chunk.first + index in started:
                reader.recall(chunk.first + index, number, _attempt(chunk, index), chunk.items)
    reports = reader.receive(worker.records)
    for task in reader.in_flight():
        head = Report(task.number, task.attempt, State.RUNNING, worker.words[wire.STARTED])
        if task.items is None:
            reports.append(head)
            continue
        # Items before the one it was at ended, but their values died with it.
        item = worker.words[wire.ITEM]
        at = range(task.items[0], item + 1 if item != wire.NONE_YET else 0)
        reports += [head._replace(items=(index, index + 1)) for index in at]
    return reports


def _attempt(chunk: NotedChunk, index: int) -> int:
    return chunk.attempts if isinstance(chunk.attempts, int) else chunk.attempts[index]


def _sequences(records: bytes) -> Iterator[int]:
    offset = 0
    while offset + wire.RECORD.size <= len(records):
        sequence, _, _, length, _ = wire.RECORD.unpack_from(records, offset)
        yield sequence
        offset += wire.RECORD.size + length
