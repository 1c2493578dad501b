"""From the submission of a job to its first task, by parts: queue, agents in their containers, session, runtime.

    rhapsody deploy --site mysite -N 2 -t 10m --image rhapsody.sif campaign.py       # so often as you like
    python benchmarks/job_start.py runs/campaign-*

Nothing is measured: the parts are read from what run folders hold anyway, `deploy/jobs`, `deploy/nodes/events` and the
journal. The first start of each job counts. Jobs of more than one node only: the first node's agent tells when the
others are there. Ends with exit code 1 if a run has no first task.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

from rhapsody.deploy.records import EventKind, read_jobs, read_record
from rhapsody.errors import RhapsodyError
from rhapsody.model.event import State
from rhapsody.telemetry.reader import read_events, read_run

PARTS = ("queue", "agents", "session", "runtime", "task", "all")
WHAT = (
    "from the submission to the script's first line",
    "to the agent of the last node: launcher, container where there is one, agent",
    "to the session's own beginning",
    "to the first task that it accepts: Dragon, where that is the backend",
    "to the first task that runs",
    "",
)


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description="From the submission of a job to its first task, by parts.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of jobs")
    found: dict[str, list[tuple[float, ...]]] = {}
    failed = 0
    for run in parser.parse_args().runs:
        try:
            found.setdefault(image_of(run), []).append(parts_of(run))
        except (RhapsodyError, LookupError) as exc:
            print(f"{run.name}: {exc}")
            failed += 1
    for image, rows in sorted(found.items()):
        tell(image, rows)
    return 1 if failed else 0


def image_of(run: Path) -> str:
    """Return what the agents of a run were started in, and the backend."""
    record = read_record(run)
    if record is None:
        raise LookupError("it was not deployed")
    where = record.script.container.engine if record.script.container else "no container"
    return f"{where}, {record.script.nodes} nodes, {read_run(run)['backend']} backend"


def parts_of(run: Path) -> tuple[float, ...]:
    """Return the seconds of each part."""
    began = [event.time_s for event in read_jobs(run) if event.kind is EventKind.STARTED]
    joined = [each["time_ns"] / 1e9 for each in lines(run / "deploy" / "nodes" / "events") if each["event"] == "joined"]
    if not began or not joined:
        raise LookupError("its job did not begin, or has one node")
    about, accepted, ran = read_run(run), 0.0, 0.0
    for event in read_events(run):
        accepted = accepted or event.time_ns / 1e9
        if event.state is State.RUNNING:
            ran = event.time_ns / 1e9
            break
    if not ran:
        raise LookupError("no task of it ran")
    moments = [about["submitted_ns"] / 1e9, began[0], max(joined), about["started_ns"] / 1e9, accepted, ran]
    return (*(later - earlier for earlier, later in pairwise(moments)), ran - moments[0])


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file with a line of JSON each."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def tell(image: str, rows: list[tuple[float, ...]]) -> None:
    """Print median and range of each part."""
    print(f"\n{image}, {len(rows)} starts: seconds, median (least to most)")
    for name, what, *each in zip(PARTS, WHAT, *rows, strict=True):
        print(f"  {name:8} {statistics.median(each):6.2f}  ({min(each):.2f} to {max(each):.2f})  {what}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
