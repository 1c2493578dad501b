"""What a pool is told once: where it is, and what its workers have to know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rhapsody.backends.member import DECODER

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.backends.member import Decoder


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What the workers of a pool are told.

    Attributes:
        node: The node's name, for messages.
        log: File that collects what workers print outside of tasks.
        clock_offset_ns: Added to `time.monotonic_ns()` it gives the session's clock.
        env: Variables of every task.
        cwd: Folder that tasks run in unless they say otherwise.
        sys_path: Import path of the session.
        campaign_file: File of the campaign's module, or empty.
        decoder: Makes reports of what workers say.
        journals_at_once: Whether a launch means that the journal has all that was reported before; else `Pool.settle`
            is called.
    """

    node: str
    log: Path
    clock_offset_ns: int
    env: dict[str, str]
    cwd: str
    sys_path: tuple[str, ...]
    campaign_file: str
    decoder: Decoder = DECODER
    journals_at_once: bool = True
