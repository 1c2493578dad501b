"""One crash of the campaign after another: how it dies, how it goes on, and what the ledger says then."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.telemetry.reader import JournalReader
from tests.crashes import campaign

if TYPE_CHECKING:
    from collections.abc import Iterable

CAMPAIGN = Path(campaign.__file__)
TASKS = campaign.POSES + campaign.ITEMS + campaign.SUMS + campaign.PROGRAMS + campaign.LATE
LIMIT_S = 120.0
_UNSURE = ("UNKNOWN", "FAILED")


class Harm(StrEnum):
    """What happens to a run."""

    KILLED = "killed"
    """The session, by SIGKILL, between two records of the journal."""
    TORN = "torn"
    """The same in the middle of writing a record."""
    TWICE = "twice"
    """The session, and the one that goes on with the run, too."""
    ALL_KILLED = "all killed"
    """The session, its guardian and the workers, all at once."""
    FLIPPED = "bit flipped"
    """The session; then a bit of the journal is flipped."""
    VALUE_FLIPPED = "bit of a value flipped"
    """The session; then a bit of the kept results is flipped."""
    CUT = "cut off"
    """The session; then the journal is cut off somewhere."""
    EMPTY = "emptied"
    """The session; then the journal is emptied."""


CLEAN = (Harm.KILLED, Harm.TORN, Harm.TWICE)
"""After these every function is known: none may end UNKNOWN."""
HARMED = tuple(harm for harm in Harm if harm not in CLEAN)


@dataclass(frozen=True)
class Case:
    """One crash.

    Attributes:
        harm: What happens.
        frame: Before which record of the journal the session dies.
        seed: Of all else that is chosen.
        idempotent: Whether the tasks say that they may run twice.
    """

    harm: Harm
    frame: int
    seed: int
    idempotent: bool = False

    def __str__(self) -> str:
        return f"{self.harm} at record {self.frame} with seed {self.seed}{' idempotent' if self.idempotent else ''}"


@dataclass(frozen=True)
class Finding:
    """What came of a crash.

    Attributes:
        died: Whether the session was killed; else it had ended before that record.
        lost: Tasks that neither have their right value nor are reported.
        twice: Tasks that ran more than once, before anybody asked for it.
        unsure: Tasks reported UNKNOWN, or FAILED since their value was lost.
        said: Whether damage was told with file and offset.
        healed: Whether the run, with what is unknown run again, ended with the right results.
    """

    died: bool
    lost: list[str]
    twice: list[str]
    unsure: list[str]
    said: bool
    healed: bool

    def faults(self, case: Case) -> list[str]:
        """Return what must not be, a line for each."""
        found = [f"lost: {name}" for name in self.lost]
        if not case.idempotent:
            found += [f"ran twice: {name}" for name in self.twice]
        if case.idempotent:
            found += [f"not known: {name}" for name in self.unsure]
        elif case.harm in CLEAN:  # executables are ended at once
            found += [f"not known: {name}" for name in self.unsure if not name.startswith("program")]
        elif self.unsure and case.harm is not Harm.ALL_KILLED and not self.said:
            found.append(f"{len(self.unsure)} tasks are not known, and no damage was told")
        if not self.healed:
            found.append("the run did not end with the right results")
        return found


def expected() -> dict[str, list[Any]]:
    """Return the results of an undisturbed run."""
    import hashlib  # noqa: PLC0415 - for this alone

    poses = [[number, hashlib.sha256(str(number).encode()).hexdigest()] for number in range(campaign.POSES)]
    sums = [3 * number + 3 for number in range(campaign.SUMS)]
    programs = [[0, f"program-{number}\n", "", str(Path.cwd())] for number in range(campaign.PROGRAMS)]
    items = [number / 2 for number in range(campaign.ITEMS)]
    return {
        "poses": poses,
        "sums": sums,
        "programs": programs,
        "items": items,
        "late": [sums[number] * 3 + number for number in range(campaign.LATE)],
    }


class Trial:
    """One case in a folder of its own."""

    def __init__(self, case: Case, folder: Path) -> None:
        self._case = case
        self._folder = folder
        self._random = random.Random(f"{case}")  # noqa: S311 - reproducible, no secret
        self._ledger = folder / "ledger"
        self._results = folder / "results.json"

    def run(self) -> Finding:
        """Let the case happen and look at what is left."""
        died = self._crash()
        if died:
            self._harm()
        said = self._command("run", *self._go_on())[1]
        lost, twice, unsure = self._compare()
        healed = not lost and (not unsure or self._heal())
        return Finding(died, lost, twice, unsure, "at offset" in said, healed)

    def _crash(self) -> bool:
        case = self._case
        torn = self._random.randrange(1, 60) if case.harm is Harm.TORN else 0
        whom = "all" if case.harm is Harm.ALL_KILLED else "session"
        arguments = [str(self._ledger), str(self._results), *(["idempotent"] if case.idempotent else [])]
        options = ["--cores", "2", "--runs", "runs"]
        code = self._command("run", *options, str(CAMPAIGN), *arguments, victim=(case.frame, torn, whom))[0]
        if case.harm is Harm.TWICE and code == -9:
            again = case.frame + self._random.randrange(1, 12)
            self._command("run", *self._go_on(), victim=(again, 0, "session"))
        return code == -9

    def _go_on(self) -> list[str]:
        (run_dir,) = (self._folder / "runs").iterdir()
        return ["--resume", str(run_dir)]

    def _harm(self) -> None:
        (run_dir,) = (self._folder / "runs").iterdir()
        journal = run_dir / "journal" / "000001.log"
        match self._case.harm:
            case Harm.FLIPPED:
                self._flip(journal)
            case Harm.VALUE_FLIPPED:
                for path in sorted((run_dir / "results").glob("*.kept")):
                    self._flip(path)
            case Harm.CUT:
                os.truncate(journal, self._random.randrange(journal.stat().st_size))
            case Harm.EMPTY:
                os.truncate(journal, 0)

    @property
    def records(self) -> int:
        """Records in the journal of the run."""
        (run_dir,) = (self._folder / "runs").iterdir()
        reader = JournalReader(run_dir)
        return sum(1 for _ in reader.records())

    def _flip(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        path.write_bytes(data)

    def _command(self, *arguments: str, victim: tuple[int, int, str] | None = None) -> tuple[int, str]:
        """Run `rhapsody`, perhaps to be killed; return exit code and what it printed to standard error."""
        program = ["-m", "rhapsody"] if victim is None else ["-m", "tests.crashes.victim", *map(str, victim)]
        source = Path(__file__).resolve().parents[2]
        ended = subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(source)},
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        return ended.returncode, ended.stderr

    def _compare(self) -> tuple[list[str], list[str], list[str]]:
        """Return the tasks that were lost, those that ran twice, and those that are reported as unsure."""
        runs = Counter(self._ledger.read_text().split()) if self._ledger.exists() else Counter[str]()
        found = json.loads(self._results.read_text()) if self._results.exists() else {}
        lost: list[str] = []
        unsure: list[str] = []
        for kind, right, got, name in self._rows(found):
            if got in _UNSURE:
                unsure.append(name)
            elif got != right or not runs[name] or (runs[name] > 1 and not self._case.idempotent):
                lost.append(f"{kind} {name}: {got!r}, ran {runs[name]} times")
        return lost, [name for name, count in runs.items() if count > 1], unsure

    def _rows(self, found: dict[str, list[Any]]) -> Iterable[tuple[str, Any, Any, str]]:
        for kind, values in expected().items():
            name = {"poses": "pose", "sums": "sum", "programs": "program", "items": "item", "late": "late"}[kind]
            got = found.get(kind, [])
            for number, value in enumerate(values):
                right = [0, f"program-{number}\n", "", str(self._folder)] if kind == "programs" else value
                yield kind, right, got[number] if number < len(got) else None, f"{name}-{number}"

    def _heal(self) -> bool:
        """Run again what is unknown; return whether all results are right then."""
        self._command("run", *self._go_on(), "--rerun-unknown")
        found = json.loads(self._results.read_text())
        return all(got == right for _, right, got, _ in self._rows(found))
