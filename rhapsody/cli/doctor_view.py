"""What `rhapsody doctor` prints."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from rhapsody.deploy.doctor.finding import Health

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rhapsody.deploy.doctor.finding import Finding
    from rhapsody.deploy.sites.profile import SiteProfile

_COLOURS = {Health.OK: "green", Health.CANNOT_TELL: "cyan", Health.WARNING: "yellow", Health.WRONG: "red"}
_WORDS = {Health.WARNING: "to be warned of", Health.CANNOT_TELL: "cannot be told from here"}
_ORDER = list(Health)
_LEAST_WIDTH = 60


def render(profile: SiteProfile, host: str, findings: Sequence[Finding], width: int) -> str:
    """Render what was found for a terminal of a width, what matters most last."""
    width = max(width, _LEAST_WIDTH)
    marks = max(map(len, Health))
    names = max((len(finding.name) for finding in findings), default=0)
    lines = [click.style(f"{profile.name}: {profile.title}", bold=True), f"on {host}", ""]
    for finding in sorted(findings, key=lambda finding: _ORDER.index(finding.verdict)):
        lines += _lines(finding, marks, names, width)
    return "\n".join([*lines, "", _summary(findings)])


def as_dict(profile: SiteProfile, host: str, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what was found for programs."""
    keys = ("name", "verdict", "text", "fix")
    found = [{key: str(getattr(finding, key)) for key in keys} for finding in findings]
    return {"schema": 1, "site": profile.name, "host": host, "findings": found}


def _lines(finding: Finding, marks: int, names: int, width: int) -> Iterator[str]:
    mark = click.style(f"{finding.verdict:<{marks}}", fg=_COLOURS[finding.verdict])
    indent = " " * (marks + names + 4)
    text = _wrapped(finding.text, indent, width)
    yield f"{mark}  {finding.name:<{names}}  {text.lstrip()}"
    if finding.fix:
        yield _wrapped(f"→ {finding.fix}", indent, width)


def _wrapped(text: str, indent: str, width: int) -> str:
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _summary(findings: Sequence[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[each]} {_WORDS.get(each, each)}" for each in reversed(_ORDER) if counts[each])
