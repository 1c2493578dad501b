"""The page of a site in the documentation, made from its profile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.deploy.sites.sections import CONFIDENCE_WORDS, Section, Table, sections_of

if TYPE_CHECKING:
    from rhapsody.deploy.sites.profile import SiteProfile

_WAYS = {"account": "-A", "queue": "-q", "walltime": "-t", "node_kind": "--node-kind"}


def render_page(profile: SiteProfile) -> str:
    """Return the page in Markdown; it ends with one newline."""
    parts = [
        f"<!-- Made by `rhapsody sites show {profile.name} --markdown`: change site-profiles/{profile.name}.yaml. -->",
        f"# {profile.title}",
        f"`rhapsody deploy --site {profile.name}`"
        + (f", after the facility's guide: {profile.url}" if profile.url else ""),
    ]
    if profile.extends:
        parts.append(f"What is not said here is as in [{profile.extends}]({profile.extends}.md).")
    if profile.required:
        parts.append(f"You must give: {', '.join(f'{name} (`{_WAYS[name]}`)' for name in profile.required)}.")
    parts += [_section(section) for section in sections_of(profile)]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> str:
    block = section.block
    words = CONFIDENCE_WORDS[block.confidence]
    parts = [f"## {section.title}"]
    if section.table is not None:
        parts.append(_table(section.table))
    if section.rows:
        parts.append("\n".join(f"- {_plain(label)}: {_code(text)}" for label, text in section.rows))
    if block.unknown:
        parts.append("Not known:\n\n" + "\n".join(f"- {_plain(each)}" for each in block.unknown))
    if block.notes:
        parts.append("To know:\n\n" + "\n".join(f"- {_plain(each)}" for each in block.notes))
    parts.append(f"Source: {_plain(block.source)}, checked {block.checked}. Confidence {block.confidence}: {words}.")
    return "\n\n".join(parts)


def _table(table: Table) -> str:
    lines = [" | ".join(table.headings), " | ".join("---" for _ in table.headings)]
    lines += [" | ".join(_cell(each) for each in row) for row in table.rows]
    return "\n".join(f"| {line} |" for line in lines)


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text whose characters mean themselves in Markdown."""
    for character in ("\\", "*", "_", "<", ">", "$", "`"):
        text = text.replace(character, f"\\{character}")
    return text


def _code(text: str) -> str:
    """Return words as they are, and what is for a machine as code."""
    if all(word.strip(".,;:()").isalnum() for word in text.split()):
        return text
    machine = any(character in text for character in "=${}/&") or text.startswith("-")
    return f"`{text}`" if machine and "`" not in text else _plain(text)
