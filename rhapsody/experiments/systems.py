"""What can be measured: the systems, and the modes that each takes part in."""

from __future__ import annotations

from dataclasses import dataclass, field

from rhapsody.errors import unknown_name

WEAK = (2_048, 4_096, 8_192, 16_384, 32_768)
STRONG = (50_000,)
MODES: dict[str, tuple[int, ...]] = {
    "functions": WEAK + STRONG,
    "executables": (2_000,),
    "latency": (2_000,),
    "map": (1_000_000,),
    "memory": (200_000,),
    "loop-block": (100_000,),
    "scaling": (2_048, 16_384, 131_072, 1_000_000),
}
"""What can be measured, and at which sizes unless said otherwise."""
SLOW = 256
"""Largest size of what manages 3 to 250 tasks a second on a small machine: a minute or two."""


@dataclass(frozen=True)
class System:
    """One system that can be measured.

    Attributes:
        name: As users write it.
        script: File in `peer_scripts/`.
        modes: For each mode that it takes part in, its backends, called like the system where it has only one.
        own_environment: Whether it is installed into an environment of its own, from `peer_requirements/<name>.txt`.
        over_dragon: Whether its script runs inside Dragon.
        largest: For backends that manage a few tasks a second only, the largest size that they are measured at.
    """

    name: str
    script: str
    modes: dict[str, tuple[str, ...]] = field(hash=False)
    own_environment: bool = True
    over_dragon: bool = False
    largest: dict[str, int] = field(default_factory=dict, hash=False)


_SYSTEMS = (
    System(
        "rhapsody-py",
        "run_rhapsody_py.py",
        {"functions": ("concurrent", "noop"), "latency": ("concurrent",), "executables": ("concurrent",)},
    ),
    System("parsl", "run_parsl.py", {"functions": ("htex",), "latency": ("htex",)}),
    System("dask", "run_dask.py", {"functions": ("dask",), "latency": ("dask",)}),
    System("ray", "run_ray.py", {"functions": ("ray",), "latency": ("ray",)}),
    System(
        "processpool",
        "run_processpool.py",
        {"functions": ("processpool",), "latency": ("processpool",)},
        own_environment=False,
    ),
    System(
        "rhapsody-py-dragon",
        "run_rhapsody_py.py",
        dict.fromkeys(("functions", "latency"), ("rhapsody-py-dragon",)),
        over_dragon=True,
        largest={"rhapsody-py-dragon": SLOW},
    ),
    System(
        "dragon-batch",
        "run_dragon_batch.py",
        dict.fromkeys(("functions", "latency"), ("dragon-batch",)),
        over_dragon=True,
        largest={"dragon-batch": SLOW},
    ),
    System(
        "dragon-pool",
        "run_dragon_pool.py",
        {"functions": ("map", "map, chunksize 1"), "map": ("map",), "latency": ("apply",)},
        over_dragon=True,
        largest={"map, chunksize 1": 4_096},
    ),
)
PEERS = {system.name: system for system in _SYSTEMS}
RHAPSODY = System("rhapsody", "run_rhapsody.py", dict.fromkeys(MODES, ()), own_environment=False)
SUBPROCESS = System("subprocess", "run_subprocess.py", {"executables": ("subprocess",)}, own_environment=False)


def peer_named(name: str) -> System:
    """Return a peer.

    Raises:
        SpecError: There is none of this name.
    """
    if name not in PEERS:
        raise unknown_name("peer", name, PEERS)
    return PEERS[name]
