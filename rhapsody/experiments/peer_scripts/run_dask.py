"""No-ops through Dask's distributed scheduler on this node, a process per worker."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import distributed

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import measure
else:
    import measure


def noop() -> None:
    """Do nothing."""


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    with (
        distributed.LocalCluster(
            n_workers=order.workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            local_directory=order.scratch,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        metrics = measure.drive_futures(
            order,
            functools.partial(client.submit, noop, pure=False),  # else equal calls are one task
            wait_one=distributed.Future.result,
            wait_all=distributed.wait,
            check=check,
        )
    waiting = "Client.submit() per task, distributed.wait(all)"
    measure.write_report(order, metrics, version=distributed.__version__, waiting=waiting)


def check(future: distributed.Future) -> None:
    """Raise what the task has raised, without fetching every result over the network."""
    if future.status != "finished":
        future.result()


if __name__ == "__main__":
    main()
