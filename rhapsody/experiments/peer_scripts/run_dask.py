"""No-ops through Dask's distributed scheduler on this node, a process per worker."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import distributed

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
            values_of=client.gather,
        )
    waiting = "Client.submit() per task, distributed.wait(all)"
    measure.write_report(order, metrics, version=distributed.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
