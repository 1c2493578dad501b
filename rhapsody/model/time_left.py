"""How long a task may still run: read from its environment, so that workers need nothing else."""

from __future__ import annotations

import math
import os
import time

from rhapsody.errors import SpecError

DEADLINE_VARIABLE = "RHAPSODY_DEADLINE"
"""When running tasks are ended, as tasks see it: seconds since the epoch."""


def time_left() -> float:
    """Return the seconds until the session ends what still runs; `math.inf` where no end is known, never negative.

    A little before the allocation ends, so that results written by then are kept.

    Raises:
        SpecError: `RHAPSODY_DEADLINE` is no number.
    """
    text = os.environ.get(DEADLINE_VARIABLE)
    return math.inf if not text else max(0.0, parse_deadline(text) - time.time())


def parse_deadline(text: str) -> float:
    """Return the moment that a deadline's text names, in seconds since the epoch.

    Raises:
        SpecError: It is no number.
    """
    try:
        moment = float(text)
    except ValueError:
        moment = math.nan
    if not math.isfinite(moment):
        raise SpecError(
            f"{DEADLINE_VARIABLE}={text!r} is no moment in seconds since the epoch;"
            f" set it like {DEADLINE_VARIABLE}=$(( $(date +%s) + 7200 )), or unset it"
        )
    return moment
