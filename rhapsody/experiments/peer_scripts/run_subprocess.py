"""A program through a plain loop of `subprocess.run`: the least that starting one can cost from Python."""

from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    program = [measure.PROGRAM]
    meter = measure.Meter()
    subprocess.run(program, check=True)
    meter.start()
    for _ in range(order.n):
        subprocess.run(program, check=True)
    meter.stop()
    waiting = "subprocess.run() in a loop, one at a time, output not captured"
    measure.write_report(order, meter.metrics(order.n), version=platform.python_version(), waiting=waiting)


if __name__ == "__main__":
    main()
