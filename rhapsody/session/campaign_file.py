"""The file that a campaign is in: whether it is there, and what else may have been meant."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from rhapsody.errors import SpecError

SIGNATURE = "async def campaign(session, args)"

_DEFINITION = re.compile(rb"^async def campaign\b", re.MULTILINE)
_FILES_LOOKED_AT = 200
_NAMES_SHOWN = 5


def existing_campaign(path: Path) -> Path:
    """Return the path of a campaign file, which is there and can be imported by its name.

    Raises:
        SpecError: It is not; the text names campaigns that are.
    """
    if path.is_dir():
        raise SpecError(f"{path} is a folder, not a campaign file; {_suggestion(path, '')}")
    if not path.exists():
        raise SpecError(f"campaign file {path} does not exist; {_suggestion(path.parent, path.name)}")
    if path.suffix != ".py":
        raise SpecError(f"campaign file {path} does not end in .py; rename it, so that Python can import it")
    return path


def _suggestion(folder: Path, name: str) -> str:
    """Return which campaign files a folder has, those with a similar name first."""
    if not folder.is_dir():
        return f"nor does its folder; you are in {Path.cwd()}"
    found = [file for file in sorted(folder.glob("*.py"))[:_FILES_LOOKED_AT] if _looks_like_campaign(file)]
    if not found:
        return f"no *.py in {folder.resolve()} has `{SIGNATURE}`"
    found.sort(key=lambda file: -difflib.SequenceMatcher(None, file.name, name).ratio())
    more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
    return f"campaigns in that folder: {', '.join(map(str, found[:_NAMES_SHOWN]))}{more}"


def _looks_like_campaign(file: Path) -> bool:
    try:
        return _DEFINITION.search(file.read_bytes()) is not None
    except OSError:
        return False
