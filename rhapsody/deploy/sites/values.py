"""What single values of a site profile may be: durations, sets of cores, sizes, names, one line of text."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated

from pydantic import BeforeValidator, ByteSize, PlainSerializer, StringConstraints, WithJsonSchema

from rhapsody.errors import SpecError
from rhapsody.session.deadline import parse_walltime

_CORES = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
_MOST_CORES = 4096
_LEAST_DAYS = 14
"""Shorter times are told in hours, as batch systems do."""


def parse_duration(value: object) -> object:
    """Return the `timedelta` of a text such as `2h` or `1h30m`; anything else as it is.

    Raises:
        ValueError: The text is no duration.
    """
    if isinstance(value, timedelta):
        return value
    if value == "0s":
        return timedelta(0)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no duration; write it like 2h, 90m or 1h30m")  # noqa: TRY004 - for pydantic
    try:
        return timedelta(seconds=parse_walltime(value))
    except SpecError as exc:
        raise ValueError(str(exc)) from exc


def format_duration(value: timedelta) -> str:
    """Return the text that `parse_duration` reads back: `45s`, `1h30m`, `168h`, `90d`; whole seconds only."""
    if value.days >= _LEAST_DAYS and value == timedelta(value.days):
        return f"{value.days}d"
    hours, rest = divmod(round(value.total_seconds()), 3600)
    minutes, seconds = divmod(rest, 60)
    units = ((hours, "h"), (minutes, "m"), (seconds, "s"))
    return "".join(f"{number}{unit}" for number, unit in units if number) or "0s"


def parse_cores(value: object) -> object:
    """Return the core ids of a text such as `0-7,16-23`, ascending; anything else as it is.

    Raises:
        ValueError: The text names no cores, or a range backwards.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return value
    if not value:
        return ()
    if not _CORES.fullmatch(value):
        raise ValueError(f"{value!r} names no cores; write them like 0-7,16-23")
    cores: set[int] = set()
    for part in value.split(","):
        first, _, last = part.partition("-")
        start, end = int(first), int(last or first)
        if end < start or end > _MOST_CORES:
            raise ValueError(f"{part!r} is no range of cores; write the smaller number first, none above {_MOST_CORES}")
        cores.update(range(start, end + 1))
    return tuple(sorted(cores))


def format_cores(cores: tuple[int, ...]) -> str:
    """Return ascending core ids as `parse_cores` reads them: `0-7,16-23`."""
    runs: list[list[int]] = []
    for core in cores:
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def format_size(size: int) -> str:
    """Return bytes as `512 GB` or `3.2 TB`: decimal, as facilities write them."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:g} {unit}"
    return f"{size} bytes"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, when_used="json"),
    WithJsonSchema({"type": "string", "description": "a duration such as 2h, 90m or 1h30m"}),
]
CoreSet = Annotated[
    tuple[int, ...],
    BeforeValidator(parse_cores),
    PlainSerializer(format_cores, when_used="json"),
    WithJsonSchema({"type": ["string", "integer"], "description": "core ids such as 0-7,16-23"}),
]
Size = Annotated[
    ByteSize, WithJsonSchema({"type": ["string", "integer"], "description": "bytes, or a size such as 512GB or 64GiB"})
]
Line = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""A text of one line: nothing in it can begin another line of a script."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
"""The name of a site, a queue, a kind of node."""
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""The name of an environment variable."""
Environment = dict[Variable, Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$")]]
"""Variables and what they are set to; an empty text sets an empty one."""
