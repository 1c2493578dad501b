"""When what has ended is started again."""

from __future__ import annotations

from dataclasses import dataclass

from rhapsody.errors import SpecError


@dataclass(frozen=True, slots=True)
class Restart:
    """When a replica that has ended is started again.

    Attributes:
        limit: Starts again in a row that are tried, before it is given up.
        delay_s: Seconds before the first of them.
        factor: Each further delay is so many times the one before.
        most_s: Longest delay.
        steady_s: A replica that was ready for so long begins to count anew.
    """

    limit: int = 5
    delay_s: float = 1.0
    factor: float = 2.0
    most_s: float = 60.0
    steady_s: float = 60.0

    def __post_init__(self) -> None:
        if self.limit < 0 or self.delay_s < 0 or self.factor < 1 or self.most_s < 0 or self.steady_s < 0:
            raise SpecError(f"{self} makes no sense: nothing may be negative, and factor at least 1")

    def delay_before(self, restart: int) -> float:
        """Return the seconds before a start again, counted from 1."""
        return float(min(self.most_s, self.delay_s * self.factor ** (restart - 1)))
