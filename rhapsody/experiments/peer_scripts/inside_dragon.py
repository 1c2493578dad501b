"""What scripts do that run inside Dragon, whose modules exist in their environments only."""

from __future__ import annotations

import importlib
import multiprocessing


def take_dragons_processes() -> None:
    """Have `multiprocessing` start processes by Dragon from here on, as Dragon's documentation has it."""
    importlib.import_module("dragon")  # which adds the method
    multiprocessing.set_start_method("dragon")


def batch_workers(wanted: int) -> int:
    """Return how many workers Dragon's Batch can be given: half of the machine's CPUs at most.

    Source: dragonhpc 0.15.0, `workflows/batch/batch.py`, which takes two CPUs for one core.
    """
    return min(wanted, max(1, multiprocessing.cpu_count() // 2))
