"""What a user wants to be different in a profile this time: `--set block.key=value`."""

from __future__ import annotations

import copy
import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.deploy.sites.block import Confidence
from rhapsody.deploy.sites.document import Document, Mark, Place, parse_value
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

_FORM = "--set wants block.key=value, such as --set environment.variables.OMP_NUM_THREADS=4"
_LEAST = 2


def changed(document: Document, changes: Sequence[str]) -> Document:
    """Return a document with some values changed; the model says later whether they may be what they are.

    Args:
        document: Of a profile with all that it extends.
        changes: `block.key=value` each, with the value in YAML.

    Raises:
        SpecError: A change is none, or leads into a value that has no keys.
    """
    if not changes:
        return document
    data, marks = copy.deepcopy(document.data), dict(document.marks)
    for change in changes:
        key, equals, text = change.partition("=")
        place = tuple(key.strip().split("."))
        if not equals or len(place) < _LEAST or not all(place):
            raise SpecError(f"{change!r} changes nothing; {_FORM}")
        mark = Mark(Path(f"--set {key.strip()}"), 0)
        value = parse_value(text, place, mark, marks)
        marks.update({place[:depth]: mark for depth in range(1, len(place)) if place[:depth] not in marks})
        _put(data, place, value, mark)
    return Document(data, marks)


def _put(data: dict[str, Any], place: Place, value: object, mark: Mark) -> None:
    if data.get(str(place[0])) is None:
        today = dt.datetime.now(tz=dt.UTC).date().isoformat()
        data[str(place[0])] = {"source": "given with --set", "checked": today, "confidence": str(Confidence.LOW)}
    inner: Any = data
    for depth, part in enumerate(place[:-1], 1):
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            where = ".".join(map(str, place[:depth]))
            raise SpecError(f"{mark}: {where} has no keys; give all of it: --set {where}=VALUE")
    inner[place[-1]] = value
