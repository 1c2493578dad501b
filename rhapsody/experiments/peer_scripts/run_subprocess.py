"""A program through a plain loop of `subprocess.run`: the least that starting one can cost from Python."""

from __future__ import annotations

import platform
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure


def start_one() -> None:
    """Run the program and wait for it."""
    subprocess.run([measure.PROGRAM], check=True)  # noqa: S603 - a constant


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    meter = measure.Meter()
    start_one()
    meter.start()
    for _ in range(order.n):
        start_one()
    meter.stop()
    metrics = meter.metrics(order.n, "executable")
    waiting = "subprocess.run() in a loop, one at a time, output not captured"
    measure.write_report(order, metrics, version=platform.python_version(), waiting=waiting)


if __name__ == "__main__":
    main()
