"""What a worker does that leads an MPI task: run the launcher over the nodes of a job, end it when told.

Run on a node of a job as `python mpi_run.py ORDER`, a JSON object with `launcher`, `slots`, `program`, and perhaps
`env`, `cwd`, `shared`, `grace_s`, `times`. Says `leads PID` first, then one line of JSON per run. SIGUSR1 is a warning
to the ranks, SIGUSR2 the order to end.
"""

from __future__ import annotations

import json
import marshal
import os
import pickle
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle

from rhapsody.backends import executables, mpi, mpi_function
from rhapsody.backends.results import decode_value
from rhapsody.node.processes import adopt_orphans

if TYPE_CHECKING:
    from types import FrameType

ORDERS: dict[bytes, tuple[Any, ...]] = {b"w": ("warn", "md", 1), b"e": ("end", "canceled")}


class Control:
    """A worker's connection, over which signals to this process come as orders."""

    def __init__(self) -> None:
        self.connection, self._far = socket.socketpair()
        for number, letter in ((signal.SIGUSR1, b"w"), (signal.SIGUSR2, b"e")):
            signal.signal(number, self._pass_on(letter))

    def _pass_on(self, letter: bytes) -> Any:  # noqa: ANN401 - a handler of signals
        def handle(number: int, frame: FrameType | None) -> None:
            self._far.send(letter)

        return handle

    def receive(self, *, wait: bool = True) -> tuple[Any, ...] | None:  # noqa: ARG002 - as workers' have it
        try:
            return ORDERS[self.connection.recv(1, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            return None


def where_and_who() -> tuple[str, str]:
    return socket.gethostname(), os.environ["RHAPSODY_RANK"]


def main() -> None:
    order = json.loads(sys.argv[1])
    adopt_orphans()
    sys.stdout.write(f"leads {os.getpid()}\n")
    sys.stdout.flush()
    control = Control()
    found = mpi.Launcher(*order["launcher"])
    slots = [mpi.RankSlot(*slot) for slot in order["slots"]]
    env = order.get("env", {})
    ssh = mpi.ssh_of_job(os.environ["PATH"])
    for _ in range(order.get("times", 1)):
        folder = Path(tempfile.mkdtemp()) / "folder"
        extra = {
            "uid": "md",
            "attempt": 1,
            "grace_s": order.get("grace_s", 5.0),
            "passes_warnings_on": True,
            "env": {**mpi.environment(found, folder, yielding=True, ssh=ssh, task=env), **env},
            "cwd": order.get("cwd"),
        }
        with executables.private_folder(str(folder)):
            sys.stdout.write(json.dumps(run(found, slots, order, extra, control)) + "\n")
            sys.stdout.flush()


def run(
    found: mpi.Launcher, slots: list[mpi.RankSlot], order: dict[str, Any], extra: dict[str, Any], control: Control
) -> dict[str, Any]:
    """Run the order's program, or a function if it has none; return the outcome."""
    if "program" in order:
        extra["argv"] = mpi.command(found, order["program"], slots, "")
        outcome: dict[str, Any] = marshal.loads(executables.run(extra, control)[1])  # noqa: S302 - our own
        return outcome
    payload = {"function": cloudpickle.dumps(where_and_who), "arguments": pickle.dumps(((), {}))}
    extra |= {
        "argv": mpi.command(found, mpi_function.program(order["shared"]), slots, ""),
        "shared": order["shared"],
        "ranks": len(slots),
        "payload": pickle.dumps(payload | {"sys_path": sys.path, "campaign_file": "", "cwd": None}),
    }
    outcome = marshal.loads(mpi_function.run(extra, control)[1])  # noqa: S302 - our own
    values = [decode_value(*pair) for pair in outcome.pop("ranks", [])]
    return outcome | {"values": values}


if __name__ == "__main__":
    main()
