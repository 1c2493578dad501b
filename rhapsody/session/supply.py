"""What exists for a session to use, as its arguments and variables say."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rhapsody.backends.discover import find_allocation
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from rhapsody.model.allocation import Allocation


def supply(allocation: Allocation | None, cores: int | None, gpus: int | None) -> Allocation:
    """Return the nodes that a session uses: those given, else those found, with so many cores and GPUs of each.

    Raises:
        SpecError: A count is none, or is given beside an allocation.
    """
    _require_count("cores", cores)
    _require_count("gpus", gpus)
    if allocation is None:
        cores = cores if cores is not None else _count_from("RHAPSODY_CORES")
        gpus = gpus if gpus is not None else _count_from("RHAPSODY_GPUS")
        return find_allocation(cores, gpus)
    if cores is not None or gpus is not None:
        raise SpecError("Session(allocation=…) says what exists; leave out cores and gpus")
    return allocation


def _count_from(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    if not text.strip().isdigit():
        raise SpecError(f"{variable}={text!r} is no whole number; set it to a count or unset it")
    return int(text)


def _require_count(name: str, value: object) -> None:
    if value is not None and type(value) is not int:
        raise SpecError(f"Session({name}={value!r}) must be a whole number; leave it out to take what is found")
