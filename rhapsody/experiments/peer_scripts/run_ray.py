"""No-ops through Ray tasks on this node, without dashboard and usage statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ray

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
    ray.init(
        num_cpus=order.workers,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=f"{order.scratch}/ray",
    )
    try:
        metrics = measure.drive_futures(
            order,
            ray.remote(noop).remote,
            wait_one=ray.get,
            wait_all=ray.get,
            values_of=ray.get,
        )
    finally:
        ray.shutdown()
    waiting = "remote() per task, ray.get(list of all)"
    measure.write_report(order, metrics, version=ray.__version__, waiting=waiting)


if __name__ == "__main__":
    main()
