"""What `rhapsody sites` prints of profiles."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from rhapsody.deploy.sites.sections import CONFIDENCE_WORDS, Section, Table, sections_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.deploy.sites.profile import SiteProfile

_GAP = "  "
_LEAST_WIDTH = 60


def columns(headings: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Render rows in columns under headings."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    lines = []
    for number, row in enumerate([headings, *rows]):
        line = indent + _GAP.join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip()
        lines.append(click.style(line, dim=True) if number == 0 else line)
    return "\n".join(lines)


def show(profile: SiteProfile, width: int) -> str:
    """Render a profile for a terminal of a width."""
    width = max(width, _LEAST_WIDTH)
    lines = [click.style(f"{profile.name}: {profile.title}", bold=True)]
    if profile.url:
        lines.append(profile.url)
    if profile.required:
        lines.append(f"you must give: {', '.join(profile.required).replace('_', ' ')}")
    for section in sections_of(profile):
        lines += ["", *_section(section, width)]
    return "\n".join(lines)


def _section(section: Section, width: int) -> Iterator[str]:
    block = section.block
    yield click.style(section.title, bold=True)
    if section.table is not None:
        yield _table(section.table)
    for label, text in section.rows:
        yield _wrapped(f"{label}: {text}", width)
    for text in block.unknown:
        yield click.style(_wrapped(f"not known: {text}", width), fg="yellow")
    for text in block.notes:
        yield _wrapped(f"note: {text}", width)
    source = f"source ({block.confidence}, {CONFIDENCE_WORDS[block.confidence]}): {block.source}, {block.checked}"
    yield click.style(_wrapped(source, width), dim=True)


def _table(table: Table) -> str:
    return columns(table.headings, table.rows, indent="  ")


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent="  ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
