"""A campaign of a thousand tasks, each of which writes its name into a ledger as it runs.

    rhapsody run tests/crashes/campaign.py LEDGER RESULTS [idempotent]

LEDGER gets a line for each run of a task, appended in one write; RESULTS the campaign's results, as JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rhapsody import ComputeTask

if TYPE_CHECKING:
    from rhapsody import ArrayTask, Session, Task

POSES, ITEMS, SUMS, PROGRAMS, LATE = 500, 240, 190, 10, 60
SLOW_EVERY, SLOW_S = 60, 0.02


def enter(ledger: str, name: str) -> None:
    """Write a name into the ledger."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, f"{name}\n".encode())
    os.close(file)


def pose(ledger: str, number: int) -> tuple[int, str]:
    """Return a number's digest; some take longer, so that a kill meets them running."""
    enter(ledger, f"pose-{number}")
    if number % SLOW_EVERY == 0:
        time.sleep(SLOW_S)
    return number, hashlib.sha256(str(number).encode()).hexdigest()


def total(ledger: str, name: str, *poses: tuple[int, str]) -> int:
    """Return the sum of the numbers of poses."""
    enter(ledger, name)
    return sum(number for number, _ in poses)


def scaled(item: tuple[str, int]) -> float:
    """Return an item's half."""
    ledger, number = item
    enter(ledger, f"item-{number}")
    return number / 2


def late(ledger: str, number: int, before: int) -> int:
    """Return a number that follows from the one before: a stage that is submitted when others have ended."""
    enter(ledger, f"late-{number}")
    return before * 3 + number


async def campaign(session: Session, args: list[str]) -> None:
    """Run all of it; in what could not be known stands the state of the task."""
    ledger, results, *rest = args
    idempotent = rest == ["idempotent"]
    poses = [ComputeTask(pose, args=(ledger, number), idempotent=idempotent) for number in range(POSES)]
    sums = [
        ComputeTask(total, args=(ledger, f"sum-{number}", *poses[number : number + 3]), idempotent=idempotent)
        for number in range(SUMS)
    ]
    script = 'printf "%s\\n" "$2" >> "$1"; echo "$2"'
    programs = [
        ComputeTask(
            executable="sh",
            arguments=["-c", script, "sh", ledger, f"program-{number}"],
            uid=f"program-{number}",
            idempotent=idempotent,
        )
        for number in range(PROGRAMS)
    ]
    items = await session.map(scaled, [(ledger, number) for number in range(ITEMS)], idempotent=idempotent)
    await session.submit([*poses, *sums, *programs])
    await session.wait(sums[:LATE])
    last = {
        number: ComputeTask(late, args=(ledger, number, task.return_value), idempotent=idempotent)
        for number, task in enumerate(sums[:LATE])
        if task.state == "DONE"
    }
    await session.submit(last.values())
    await session.wait()
    found = {
        "poses": [outcome(task) for task in poses],
        "sums": [outcome(task) for task in sums],
        "programs": [outcome(task) for task in programs],
        "items": [outcome_of_item(items, number) for number in range(ITEMS)],
        "late": [outcome(last[number]) if number in last else "UNKNOWN" for number in range(LATE)],
    }
    Path(results).write_text(json.dumps(found))


def outcome(task: Task) -> object:
    """Return a task's value, or how it ended."""
    error = task.exception
    if error is not None:
        return str(task.state)
    value = task.return_value
    return list(value) if isinstance(value, tuple) else value


def outcome_of_item(items: ArrayTask, number: int) -> object:
    """Return the value of an item, or how it ended."""
    if number in items.failures:
        return str(items.failures[number].state)
    return str(items.state) if items.value is None else items.value[number]


if __name__ == "__main__":
    sys.exit("run it with: rhapsody run")
