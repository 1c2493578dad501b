"""The crash matrix: a campaign of 1,000 tasks dies everywhere, and goes on.

    python benchmarks/crashes.py [--seed N] [--each N] [--folder DIR]

The session is killed before every record of the journal, and in the middle of writing it; each other harm happens at
`--each` records chosen by the seed, to tasks that may run twice and to such as may not. Prints a table for
docs/reliability.md; the exit code is 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.progress import track

from tests.crashes.matrix import HARMED, TASKS, Case, Finding, Harm, Trial

AT_A_TIME = 2


def records(folder: Path, seed: int) -> int:
    """Return how many records the journal of an undisturbed run has."""
    trial = Trial(Case(Harm.KILLED, 10**9, seed), folder)
    trial.run()
    return trial.records


def cases(count: int, seed: int, each: int) -> list[Case]:
    """Return all crashes of a matrix.

    Args:
        count: Records of the journal.
        seed: Of all choices.
        each: Crashes for each harm that does not happen everywhere.
    """
    chosen = random.Random(seed)  # noqa: S311 - reproducible, no secret
    found = [Case(harm, frame, seed) for harm in (Harm.KILLED, Harm.TORN) for frame in range(1, count)]
    for harm in (Harm.TWICE, *HARMED):
        for idempotent in (False, True) if harm in HARMED else (False,):
            found += [Case(harm, chosen.randrange(1, count), seed + at, idempotent) for at in range(each)]
    return found


def run(case: Case, parent: Path) -> tuple[Case, Finding]:
    """Run one case in a folder that is removed afterwards."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        return case, Trial(case, folder).run()
    finally:
        shutil.rmtree(folder)


def table(results: list[tuple[Case, Finding]]) -> str:
    """Render what came of the cases."""
    groups: dict[tuple[Harm, bool], list[tuple[Case, Finding]]] = {}
    for case, finding in results:
        groups.setdefault((case.harm, case.idempotent), []).append((case, finding))
    lines = [
        "| harm | idempotent | crashes | tasks lost | run twice unasked | reported UNKNOWN or FAILED | wrong |",
        "|---|---|---|---|---|---|---|",
    ]
    for (harm, idempotent), rows in groups.items():
        died = [(case, finding) for case, finding in rows if finding.died]
        count: Counter[str] = Counter()
        for case, finding in died:
            count["lost"] += len(finding.lost)
            count["twice"] += 0 if idempotent else len(finding.twice)
            count["unsure"] += len(finding.unsure)
            count["wrong"] += bool(finding.faults(case))
        share = count["unsure"] / (len(died) * TASKS) if died else 0.0
        lines.append(
            f"| {harm} | {'yes' if idempotent else 'no'} | {len(died)} | {count['lost']} | {count['twice']} |"
            f" {count['unsure']} ({share:.1%}) | {count['wrong']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the matrix and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=None, help="where the runs go; a temporary folder unless given")
    chosen = parser.parse_args()

    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        parent = Path(name)
        whole = parent / "whole"
        whole.mkdir()
        todo = cases(records(whole, chosen.seed), chosen.seed, chosen.each)
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            running = pool.map(lambda case: run(case, parent), todo)
            results = list(track(running, "crashing", total=len(todo)))
    wrong = [f"{case}: {fault}" for case, finding in results for fault in finding.faults(case)]
    print(f"seed {chosen.seed}, {len(results)} crashes of a campaign of {TASKS} tasks\n\n{table(results)}")
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
