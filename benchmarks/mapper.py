"""CPU time of placing and releasing one task, on 147 and on 9,408 simulated nodes of Frontier.

Run it with `python benchmarks/mapper.py`. The last column is the proof that no call walks over the nodes: the same
tasks cost about the same on 64 times as many of them. It ends with exit code 1 if a ratio is above 1.5.

Every number is the best of some repeats, in CPU time, with the garbage collector off while the clock runs, as `timeit`
does it. Where tasks come and go, the same number of them does so on both machines, at random places, while all others
stay: so the ratio shows work, and not how many tasks fit the processor's caches.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
from collections.abc import Callable, Sequence

from rhapsody.model.allocation import Allocation, Node, NodeShape
from rhapsody.model.policy import Policy
from rhapsody.model.resources import SERIAL, Placement, Resources
from rhapsody.scheduling.mapper import Mapper

NODE_COUNTS = (147, 9408)
MOST_RATIO = 1.5
TASKS = 8000
"""For filling: a little less than what 147 nodes hold."""
LIVE = 1000
"""So many tasks come and go."""
ROUNDS = 5

# Source: Frontier User Guide of the OLCF, on its nodes: 8 GPUs, each near one L3 region of 8 cores, the first core of
# each region reserved by default, 4 NUMA domains.
FRONTIER = NodeShape(
    cores=64,
    gpus=8,
    memory_bytes=512 << 30,
    reserved_cores=tuple(range(0, 64, 8)),
    numa=tuple(tuple(range(first, first + 16)) for first in range(0, 64, 16)),
    gpu_cores=tuple(tuple(range(8 * region, 8 * region + 8)) for region in (6, 7, 2, 3, 0, 1, 4, 5)),
    gpu_vendor="amd",
)
PACK = Policy()
SPREAD = Policy(placement="spread")
MPI = Resources(ranks=512, ranks_per_node=8, cores_per_rank=7, gpus_per_rank=1)
MIXED = (
    SERIAL,
    SERIAL,
    Resources(cores_per_rank=4),
    Resources(cores_per_rank=7, gpus_per_rank=1),
    Resources(cores_per_rank=2, memory_per_rank="20GiB"),
    Resources(ranks=4, cores_per_rank=2),
    Resources(ranks=16, cores_per_rank=7, gpus_per_rank=1, ranks_per_node=8),
)

Measure = Callable[[Mapper], float]


def mapper_of(node_count: int) -> Mapper:
    """Return a mapper over so many idle nodes of Frontier."""
    return Mapper(Allocation(nodes=tuple(Node(name=f"n{number}", shape=FRONTIER) for number in range(node_count))))


def fill(mapper: Mapper, requests: Sequence[Resources], share: float, policy: Policy = PACK) -> list[Placement]:
    """Place random ones of some requests until a share of the cores is taken; return what was placed, shuffled."""
    dice = random.Random(1)  # noqa: S311 - the same tasks every time, nothing secret
    placements = []
    while mapper.free_cores > (1 - share) * mapper.usable_cores:
        placement = mapper.place(dice.choice(requests), policy)
        if placement is None:
            break
        placements.append(placement)
    dice.shuffle(placements)
    return placements


def churn(mapper: Mapper, live: list[Placement], requests: Sequence[Resources], policy: Policy = PACK) -> float:
    """Release one task of `live` and place another, over and over; return seconds of CPU per turn.

    All of `live` was replaced once before the clock starts.
    """
    _replace(mapper, live, requests, policy)
    started = time.process_time()
    for _ in range(ROUNDS):
        _replace(mapper, live, requests, policy)
    return (time.process_time() - started) / ROUNDS / len(requests)


def _replace(mapper: Mapper, live: list[Placement], requests: Sequence[Resources], policy: Policy) -> None:
    place, release = mapper.place, mapper.release
    for turn, request in enumerate(requests):
        turn %= len(live)  # noqa: PLW2901
        release(live[turn])
        placement = place(request, policy)
        while placement is None:  # a large one came; make room
            release(live.pop())
            placement = place(request, policy)
        live[turn] = placement


def fill_and_drain(mapper: Mapper) -> float:
    """Single-core tasks: place all, then release all."""
    started = time.process_time()
    placements = [mapper.place(SERIAL, PACK) for _ in range(TASKS)]
    for placement in placements:
        if placement is not None:
            mapper.release(placement)
    return (time.process_time() - started) / TASKS


def single_core_when_full(mapper: Mapper) -> float:
    """Single-core tasks end at random places of a machine that is 99 % full, and others take their place."""
    return churn(mapper, fill(mapper, [SERIAL], 0.99)[:LIVE], [SERIAL] * LIVE)


def single_core_among_mixed(mapper: Mapper) -> float:
    """Single-core tasks come and go in the holes that tasks of all shapes left."""
    fill(mapper, MIXED, 0.7)
    return churn(mapper, fill(mapper, [SERIAL], 0.95)[:LIVE], [SERIAL] * LIVE)


def mixed_shapes(mapper: Mapper) -> float:
    """Tasks of all shapes come and go on a machine that is 80 % full."""
    live = fill(mapper, MIXED, 0.8)[:200]
    return churn(mapper, live, random.Random(2).choices(MIXED, k=len(live)))  # noqa: S311


def mpi(mapper: Mapper) -> float:
    """MPI tasks of 512 ranks come and go, 8 ranks and GPUs on a node."""
    return churn(mapper, fill(mapper, [MPI], 0.4)[:1], [MPI] * 5)


def spread(mapper: Mapper) -> float:
    """Single-core tasks come and go on a machine that is half full, each to the emptiest node."""
    return churn(mapper, fill(mapper, [SERIAL], 0.5, SPREAD)[:LIVE], [SERIAL] * LIVE, SPREAD)


MEASURES: dict[str, Measure] = {
    "single core, fill and drain": fill_and_drain,
    "single core, churn at 99 % full": single_core_when_full,
    "single core, among mixed shapes": single_core_among_mixed,
    "mixed shapes, at 80 % full": mixed_shapes,
    "MPI, 512 ranks, 8 per node": mpi,
    "single core, spread": spread,
}


def best_of(measure: Measure, node_count: int, repeats: int) -> float:
    """Return the least CPU time in µs per task, over some machines that are each built anew."""
    seconds = []
    for _ in range(repeats):
        mapper = mapper_of(node_count)
        gc.collect()
        gc.disable()
        seconds.append(measure(mapper))
        gc.enable()
    return min(seconds) * 1e6


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description="CPU µs per place and release.")
    parser.add_argument("--repeats", type=int, default=5, help="of which the best counts")
    repeats: int = parser.parse_args().repeats
    print(f"{'CPU µs per place + release':34}" + "".join(f"{count:>7} nodes" for count in NODE_COUNTS) + "    ratio")
    too_high = 0
    for name, measure in MEASURES.items():
        least = [best_of(measure, count, repeats) for count in NODE_COUNTS]
        ratio = least[-1] / least[0]
        too_high += ratio > MOST_RATIO
        print(f"{name:34}" + "".join(f"{micros:13.2f}" for micros in least) + f"{ratio:9.2f}", flush=True)
    return 1 if too_high else 0


if __name__ == "__main__":
    sys.exit(main())
