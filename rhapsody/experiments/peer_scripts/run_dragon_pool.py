"""No-ops through `multiprocessing.Pool` with processes of Dragon: one `map` call, its cheapest way."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

if TYPE_CHECKING or __package__:
    from rhapsody.experiments.peer_scripts import inside_dragon, measure
else:
    import inside_dragon
    import measure


def noop(_item: int) -> int:
    """Do nothing but return what a no-op has to."""
    return 1


def mapped(pool: Pool, order: measure.Order, chunksize: int | None) -> dict[str, float]:
    """Measure one call for all items."""
    pool.map(noop, range(measure.WARM_UP_TASKS_PER_WORKER * order.workers), chunksize)
    meter = measure.Meter()
    meter.start()
    values = pool.map(noop, range(order.n), chunksize)
    meter.stop()
    measure.require_values(order, values)
    return meter.metrics(order.n, "item" if order.mode == "map" else "task")


def applied(pool: Pool, order: measure.Order) -> dict[str, float]:
    """Measure one call after the other."""
    for item in range(measure.WARM_UP_TASKS_PER_WORKER * order.workers):
        pool.apply(noop, (item,))
    samples_s = []
    for item in range(order.n):
        before = time.perf_counter()
        pool.apply(noop, (item,))
        samples_s.append(time.perf_counter() - before)
    return measure.latency_metrics(samples_s)


def main() -> None:
    """Measure what the order says."""
    order = measure.read_order()
    inside_dragon.take_dragons_processes()
    chunksize = 1 if order.backend == "map, chunksize 1" else None
    with multiprocessing.Pool(order.workers) as pool:
        metrics = applied(pool, order) if order.mode == "latency" else mapped(pool, order, chunksize)
        waiting = "one Pool.map(all), in its own chunks and with chunksize=1"
        measure.write_report(order, metrics, version=importlib.metadata.version("dragonhpc"), waiting=waiting)


if __name__ == "__main__":
    main()
