"""The run that a session belongs to: its folder, its lease, its journal, and what earlier sessions of it did."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rhapsody
from rhapsody.abc import logs_folder
from rhapsody.errors import SpecError
from rhapsody.session.lease import Lease
from rhapsody.session.run_folder import create_run_folder, write_description
from rhapsody.session.status import read_description
from rhapsody.telemetry.history.past import Past
from rhapsody.telemetry.journal import Journal, NullJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rhapsody.abc import Aftermath, Backend
    from rhapsody.session.notices import Notices


class Run:
    """One session's part of a run.

    Args:
        name: First part of the run folder's name, where it is made.
        runs: Folder for run folders; `$RHAPSODY_RUNS`, else `./runs`.
        resume: Folder of a run to go on with, instead.
        run_dir: Run folder that was made before, instead; no session has run there.
        journal: Whether the run is journaled.
        rerun_unknown: Run again what may have run in earlier sessions.
        facts: What `run.json` says besides.
        notices: Told what the user should know.

    Attributes:
        session: Which session of the run it is, from 1.
        folder: The run folder, once it is open.
        journal: Gets every change of state.
        past: What earlier sessions did; None in the first.
    """

    def __init__(  # noqa: PLR0913 - what a session is given of its run
        self,
        name: str,
        runs: Path | str | None,
        resume: Path | str | None,
        *,
        run_dir: Path | str | None = None,
        journal: bool,
        rerun_unknown: bool,
        facts: Mapping[str, Any],
        notices: Notices,
    ) -> None:
        if resume is not None and not journal:
            raise SpecError("a run is resumed from its journal: leave out journal=False, or --no-journal")
        if resume is not None and run_dir is not None:
            raise SpecError("a run is resumed where it ran: leave out run_dir, or --run-dir")
        self._name = name
        self._runs = runs
        self._resume = Path(resume).absolute() if resume is not None else None
        self._prepared = Path(run_dir).absolute() if run_dir is not None else None
        self._with_journal = journal
        self._rerun_unknown = rerun_unknown
        self._description = dict(facts)
        self._notices = notices
        self._lease: Lease | None = None
        self.session = 1
        self.folder: Path | None = None
        self.journal: Journal | NullJournal = NullJournal()
        self.past: Past | None = None

    async def open(
        self,
        backend: Backend,
        facts: Mapping[str, Any],
        on_lost: Callable[[str], object],
        on_request: Callable[[bool], object],
    ) -> Path:
        """Make the folder or go on with it, take the lease, and begin the journal; return the folder.

        After an error or cancellation nothing is held.

        Args:
            backend: Asked what became of earlier sessions.
            facts: What `run.json` says of this session.
            on_lost: Called on the loop, with the reason, when another session took the run.
            on_request: Called on the loop when somebody asks the run to end: with True when what runs may end.

        Raises:
            SpecError: The folder cannot be made or written, or there is nothing to go on with.
            BackendError: Another session holds the run.
            JournalError: The journal cannot be read or written.
        """
        loop = asyncio.get_running_loop()
        folder = self.folder = self._resume or self._own_folder()
        self._lease = await Lease.take(
            folder,
            on_lost=lambda reason: loop.call_soon_threadsafe(on_lost, reason),
            on_request=lambda drain: loop.call_soon_threadsafe(on_request, drain),
            say=self._notices,
        )
        try:
            if self._resume is not None:
                await self._go_on(folder, backend)
            earlier = {} if self._prepared is None else read_description(folder)
            self._description = earlier | self._own_facts(folder) | self._description | dict(facts)
            write_description(folder, self._description)
            logs_folder(folder, self.session).mkdir(mode=0o700, exist_ok=True)
            self._notices.open(folder / "logs" / "session.log")
            self._notices.keep(f"session {self.session} began: process {os.getpid()} on {socket.gethostname()}")
            if self._with_journal:
                after = self.past.end if self.past is not None else None
                self.journal = Journal.create(folder, self._description, after)
        except BaseException:  # cancellation too: nothing may stay held
            self.close()
            raise
        return folder

    def _own_folder(self) -> Path:
        folder = self._prepared
        if folder is None:
            return create_run_folder(self._name, self._runs)
        if not (folder / "logs").is_dir():
            raise SpecError(f"{folder} is no run folder; without --run-dir one is made")
        if (folder / "journal").is_dir():
            raise SpecError(f"{folder} has a run already; go on with it: rhapsody run --resume {folder}")
        return folder

    async def _go_on(self, folder: Path, backend: Backend) -> None:
        """Find out what earlier sessions did, once nothing of them runs any more."""
        earlier = read_description(folder)
        last = earlier.get("session", 1)
        if not (folder / "journal").is_dir():
            raise SpecError(f"{folder} has no journal, so there is nothing to go on with; start the campaign anew")
        aftermaths: dict[int, Aftermath] = {}
        for session in range(1, last + 1):
            aftermaths[session] = await backend.recover(folder, session)
        began = time.monotonic()
        self.past = await asyncio.to_thread(Past, folder, aftermaths, rerun_unknown=self._rerun_unknown)
        self.session = self.past.end.session + 1
        self._tell_past(self.past, time.monotonic() - began)
        for session, aftermath in aftermaths.items():
            if aftermath.damage:
                self._notices(f"what session {session} left: {aftermath.damage}")

    def _tell_past(self, past: Past, took_s: float) -> None:
        done, lost = past.count_done(), past.count_lost()
        may = f", {lost:,} may have run" if lost else ""
        self._notices(
            f"session {self.session} of the run: {done:,} tasks were done before{may} (read in {took_s:.1f} s)"
        )
        for place in past.damages:
            self._notices(
                f"the run is damaged: {place.segment} at offset {place.offset}: {place.reason}; what stood there is"
                " unknown, the rest is used"
            )
        if past.tail is not None:
            self._notices(
                f"the journal breaks off: {past.tail.segment} at offset {past.tail.offset}: {past.tail.reason}"
            )

    def _own_facts(self, folder: Path) -> dict[str, Any]:
        return {
            "schema": 1,
            "uid": folder.name,
            "name": self._name,
            "session": self.session,
            "version": rhapsody.__version__,
            "python": sys.version.split()[0],
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "argv": sys.argv,
            "started_ns": time.time_ns(),
        }

    def close(self, facts: Mapping[str, Any] | None = None) -> None:
        """Close the journal, have `run.json` say how the session ended, and give back the lease.

        Args:
            facts: What it shall say; None when the session never came up.

        Raises:
            JournalError: Not everything could be brought to disk.
        """
        try:
            self.journal.close()
        finally:
            if facts is not None and self.folder is not None and self._lease is not None and self._lease.held:
                self._say_how_it_ended(self.folder, facts)
            if self._lease is not None:
                self._lease.release()
            self._notices.close()

    def _say_how_it_ended(self, folder: Path, facts: Mapping[str, Any]) -> None:
        try:
            write_description(folder, self._description | dict(facts))
        except OSError as exc:
            self._notices(f"cannot write {folder / 'run.json'}: {exc.strerror}; it does not say how the session ended")
        self._notices.keep(f"session {self.session} ended: {_ending(facts)}")


def _ending(facts: Mapping[str, Any]) -> str:
    counts = "  ".join(f"{count} {state}" for state, count in facts.get("tasks", {}).items()) or "no tasks"
    return counts if "exit_code" not in facts else f"{counts}; exit code {facts['exit_code']}"
