"""No-ops through `concurrent.futures.ProcessPoolExecutor`, the baseline of the standard library."""

from __future__ import annotations

import concurrent.futures
import functools
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure


def noop() -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    with concurrent.futures.ProcessPoolExecutor(max_workers=order.workers) as pool:
        metrics = measure.drive_futures(
            order,
            functools.partial(pool.submit, noop),
            wait_one=concurrent.futures.Future.result,
            wait_all=concurrent.futures.wait,
            values_of=lambda futures: [future.result() for future in futures],
        )
    waiting = "submit() per task, concurrent.futures.wait(all)"
    measure.write_report(order, metrics, version=platform.python_version(), waiting=waiting)


if __name__ == "__main__":
    main()
