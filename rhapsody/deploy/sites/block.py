"""What every block of a site profile says of itself: who says so, when that was looked up, how sure it is."""

from __future__ import annotations

from datetime import date
from enum import StrEnum

from rhapsody.deploy.sites.values import Line
from rhapsody.model.allocation import FrozenModel


class Confidence(StrEnum):
    """How far a block can be trusted."""

    HIGH = "H"
    """The facility's own page says so, or it is the machine in front of you."""
    MEDIUM = "M"
    """A maintained configuration of others, or an older page of the facility."""
    LOW = "L"
    """One user says so."""
    UNKNOWN = "U"
    """Nobody is known to say so: values are left out, and asked for or warned of."""


class Block(FrozenModel):
    """Base of the blocks.

    Attributes:
        source: Who says so: a page, a repository and file, or a person.
        checked: When it was looked up.
        confidence: How sure it is.
        unknown: What is not known and therefore left out; each entry is told to the user.
        notes: What a user should know and no field holds.
    """

    source: Line
    checked: date
    confidence: Confidence
    unknown: tuple[Line, ...] = ()
    notes: tuple[Line, ...] = ()
