"""No-ops through Parsl's HighThroughputExecutor on this node, all else as Parsl sets it."""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING

import parsl
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider

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
    executor = HighThroughputExecutor(
        label="htex",
        address="127.0.0.1",
        loopback_address="127.0.0.1",
        max_workers_per_node=order.workers,
        provider=LocalProvider(init_blocks=1, max_blocks=1),
    )
    config = parsl.Config(executors=[executor], run_dir=f"{order.scratch}/runinfo", usage_tracking=0)
    with parsl.load(config):
        metrics = measure.drive_futures(
            order,
            parsl.python_app(noop),
            wait_one=concurrent.futures.Future.result,
            wait_all=concurrent.futures.wait,
            values_of=lambda futures: [future.result() for future in futures],
        )
    waiting = "one app call per task, concurrent.futures.wait(all)"
    measure.write_report(order, metrics, version=parsl.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
