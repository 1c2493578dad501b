"""When a replica gets no more requests since it fails, and when it gets some again."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Fault(Enum):
    """What was wrong with an attempt."""

    UNREACHABLE = "nobody listens there"
    BROKEN = "the connection broke"
    SERVER = "the server failed"
    SILENT = "no answer"


class BreakerSettings(NamedTuple):
    """When to give a replica up, and when to try it again.

    Attributes:
        failures: So many in a row eject it; one where nobody listens at all.
        silence_s: Probed at once when it has requests and shows no progress for so long; and ejected meanwhile, if
            another replica of the model does show some. It keeps its requests, which may only be long, until so many
            probes as `failures` says have failed, too.
        first_pause_s: Until the first probe of one that was ejected; each that fails doubles the pause.
        longest_pause_s: It grows no further.
        probe_s: A probe must be answered within this time.
    """

    failures: int = 3
    silence_s: float = 60.0
    first_pause_s: float = 0.5
    longest_pause_s: float = 30.0
    probe_s: float = 20.0


class Breaker:
    """Whether one replica may get requests. It knows no sockets and starts nothing: others tell it what they see.

    Attributes:
        is_open: The replica is ejected.
        era: Grows when the replica comes back. What was sent in an earlier era says nothing about this one.
        ejections: How often it was ejected.
    """

    __slots__ = ("_clock", "_in_a_row", "_pause_s", "_probe_at", "_probes_failed", "_probing", "_settings",
                 "ejections", "era", "is_open", "last_progress")  # fmt: skip

    def __init__(self, settings: BreakerSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._in_a_row = 0
        self._pause_s = settings.first_pause_s
        self._probes_failed = 0
        self._probe_at = 0.0
        self._probing = False
        self.is_open = False
        self.era = 0
        self.ejections = 0
        self.last_progress = clock()

    def progressed(self) -> None:
        """Learn that something came from the replica: an answer, a part of one, a refusal."""
        self.last_progress = self._clock()
        self._in_a_row = 0
        if not self.is_open:
            self._forgive()

    def woke(self) -> None:
        """Learn that the replica, which had nothing to do, has been sent something: its silence counts from now."""
        self.last_progress = self._clock()

    def failed(self, fault: Fault, era: int) -> bool:
        """Learn that an attempt failed.

        Args:
            fault: How.
            era: When the attempt began.

        Returns:
            Whether this ejects the replica.
        """
        if self.is_open or era != self.era:
            return False
        self._in_a_row += 1
        if fault is not Fault.UNREACHABLE and self._in_a_row < self._settings.failures:
            return False
        self._eject(self._settings.first_pause_s)
        return True

    def silent(self) -> bool:
        """Return whether it has shown no progress for too long, given that it has requests."""
        return self._clock() - self.last_progress > self._settings.silence_s

    def fell_silent(self) -> None:
        """Eject it; its probe is due at once."""
        self._eject(0.0)

    def gave_no_sign(self) -> None:
        """Eject it, since it answered no probe while it was silent; the next probe comes after the first pause."""
        self._eject(self._settings.first_pause_s)

    def probe_is_due(self, *, busy: bool = False) -> bool:
        """Return whether it is time to try the replica, and nobody does so.

        Args:
            busy: It has requests: not ejected, it is tried when it is silent.
        """
        is_suspect = self.is_open or (busy and self.silent())
        return is_suspect and not self._probing and self._clock() >= self._probe_at

    def probe_begins(self) -> None:
        """Learn that somebody tries it now."""
        self._probing = True

    def probe_answered(self) -> None:
        """Learn that it works, or does so again."""
        self.era += self.is_open
        self._probing = self.is_open = False
        self.progressed()

    def probe_failed(self, fault: Fault) -> bool:
        """Learn that it does not work yet: the next probe comes later.

        Returns:
            Whether what it still has is given up: nobody listens there, or too many probes failed in a row.
        """
        self._probing = False
        self._probes_failed += 1
        self._probe_at = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, self._settings.longest_pause_s)
        return fault is Fault.UNREACHABLE or self._probes_failed >= self._settings.failures

    def _forgive(self) -> None:
        """Forget probes that failed: the next time begins anew."""
        self._probes_failed, self._probe_at, self._pause_s = 0, 0.0, self._settings.first_pause_s

    def _eject(self, pause_s: float) -> None:
        self.is_open = True
        self.ejections += 1
        self._in_a_row = self._probes_failed = 0
        self._probe_at = self._clock() + pause_s
        self._pause_s = min(max(2 * pause_s, self._settings.first_pause_s), self._settings.longest_pause_s)


def silent_among(busy: Iterable[Breaker], others: Iterable[Breaker]) -> list[Breaker]:
    """Return which replicas show no progress for too long while another does.

    Args:
        busy: Of replicas that are not ejected and have requests.
        others: Of all replicas of the model that are not ejected.
    """
    silent = [each for each in busy if each.silent()]
    return silent if silent and any(not each.silent() for each in others) else []
