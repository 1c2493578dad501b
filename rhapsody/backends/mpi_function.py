"""A Python function under MPI: called once on every rank, its value is the list of what the ranks returned.

The worker that leads the task writes the payload into a private folder, runs the launcher like any executable, and
collects one file per rank. Ranks on several nodes have that folder on the file system that the nodes share.
"""

from __future__ import annotations

import marshal
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import cloudpickle

from rhapsody.backends import executables, wire
from rhapsody.backends.campaign_module import know_campaign
from rhapsody.backends.results import encode_failure, encode_value

_CODE = """
import sys
sys.path.insert(0, sys.argv[1])
from rhapsody.backends.mpi_function import run_rank
run_rank(sys.argv[2])
"""
_SOURCE_FOLDER = str(Path(__file__).resolve().parents[2])
_SIGNAL_BASE = 128
"""Launchers exit with this plus the number of the signal that ended a rank."""


def program(folder: str) -> list[str]:
    """Return the program that each rank becomes.

    Args:
        folder: Where `run` leaves the payload: `shared` if there is one.
    """
    return [sys.executable, "-c", _CODE, _SOURCE_FOLDER, folder]


def run(extra: dict[str, Any], control: executables.Control) -> tuple[int, bytes]:
    """Run all ranks from the leading worker; return a record's kind and bytes.

    Args:
        extra: As for `executables.run`, and `ranks` (how many), `folder` (private to the run), `payload` (bytes). For
            ranks on several nodes `shared`: a folder that all of them see, made here and removed at the end.
        control: Where an order to end may come from.
    """
    shared = extra.get("shared")
    with executables.private_folder(shared):
        folder = Path(shared or extra["folder"])
        payload = folder / "payload"
        payload.touch(mode=0o600)
        payload.write_bytes(extra["payload"])
        _, data = executables.run(extra, control)
        outcome: dict[str, Any] = marshal.loads(data)  # noqa: S302 - made just above
        return wire.RICH, marshal.dumps(_combine(outcome, folder, extra["ranks"]))


def _combine(outcome: dict[str, Any], folder: Path, ranks: int) -> dict[str, Any]:
    """Return the outcome with the ranks' values, or with the failure of the lowest rank that failed."""
    if outcome.get("cause") in ("timeout", "canceled"):
        return outcome
    found: list[tuple[int, bytes]] = []
    for rank in range(ranks):
        path = folder / f"rank-{rank}"
        if not path.exists():
            continue
        kind, data = marshal.loads(path.read_bytes())  # noqa: S302 - written by our own ranks in our own folder
        if kind == wire.RICH:
            failure: dict[str, Any] = marshal.loads(data)  # noqa: S302 - as above
            return outcome | failure | {"message": f"rank {rank} of {ranks}: {failure['message']}"}
        found.append((kind, data))
    if len(found) == ranks:
        outcome.pop("cause", None)
        return {name: outcome[name] for name in ("stdout", "stderr", "exit_code")} | {"ranks": found}
    code = outcome["exit_code"]
    if code > _SIGNAL_BASE:
        outcome["cause"] = "signal"
        outcome["message"] = f"a rank was ended by signal {code - _SIGNAL_BASE}: {outcome.get('message', '')}"
    elif "cause" not in outcome:
        outcome |= {"cause": "exit_code", "message": f"only {len(found)} of {ranks} ranks returned a value"}
    return outcome


def run_rank(folder: str) -> None:
    """Run the function on this rank, and leave its value in the folder."""
    place = Path(folder)
    payload = pickle.loads((place / "payload").read_bytes())  # noqa: S301 - written 0600 by our own worker
    sys.path[:] = payload["sys_path"]
    know_campaign(payload["campaign_file"])
    try:
        function = cloudpickle.loads(payload["function"])
        args, kwargs = pickle.loads(payload["arguments"])  # noqa: S301 - as above
        with executables.surroundings({"cwd": payload["cwd"]}):
            encoded = encode_value(function(*args, **kwargs))
    except BaseException as exc:  # noqa: BLE001 - the user's function
        encoded = encode_failure(exc)
    name = f"rank-{os.environ['RHAPSODY_RANK']}"
    part = place / f"{name}.part"
    part.write_bytes(marshal.dumps(encoded))
    part.rename(place / name)
    if encoded[0] == wire.RICH:
        sys.exit(1)
