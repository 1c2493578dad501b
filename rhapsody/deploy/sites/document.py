"""YAML of a profile to plain values, each with the line it stands on.

YAML 1.2's core types only: `no` is a text, `1:30:00` too. Anchors are refused: each value then has one line, and no
short file can grow into a huge one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_BYTES = 1 << 20

Place = tuple[str | int, ...]
"""Keys and indices from the top of the file to a value."""


class Mark(NamedTuple):
    """Where a value stands: in a file, or on a command line, which has the line 0."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else str(self.file)


class Document(NamedTuple):
    """What a file holds.

    Attributes:
        data: Its values.
        marks: The line of each of them; that of a key, where there is one.
    """

    data: dict[str, Any]
    marks: Mapping[Place, Mark]


class _Loader(yaml.SafeLoader):
    """Reads scalars as YAML 1.2 does."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - the library's own way


for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first)


def read_document(file: Path) -> Document:
    """Read a profile's file.

    Raises:
        SpecError: It cannot be read, is no YAML, has an anchor or the same key twice, or is no mapping.
    """
    try:
        content = file.read_bytes()
    except OSError as exc:
        raise SpecError(f"cannot read the site profile {file}: {exc.strerror}") from exc
    if len(content) > MOST_BYTES:
        raise SpecError(f"{file} has {len(content)} bytes; a site profile has at most {MOST_BYTES}")
    try:
        text = content.decode()
        _refuse_anchors(file, text)
        root = yaml.compose(text, Loader=_Loader)
    except UnicodeDecodeError as exc:
        raise SpecError(f"{file}: is no text in UTF-8; save it as such") from exc
    except RecursionError as exc:
        raise SpecError(f"{file}: is nested too deeply for a site profile") from exc
    except yaml.MarkedYAMLError as exc:
        line = exc.problem_mark.line + 1 if exc.problem_mark else 1
        raise SpecError(f"{file}:{line}: is no YAML: {exc.problem}; mind indentation and quotes") from exc
    except yaml.YAMLError as exc:
        raise SpecError(f"{file}: is no YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(root, yaml.MappingNode):
        raise SpecError(f"{file}:1: holds no keys; a site profile begins with `schema: 1`")
    marks: dict[Place, Mark] = {(): Mark(file, 1)}
    return Document(_plain(root, (), file, marks), marks)


def parse_value(text: str, place: Place, mark: Mark, marks: dict[Place, Mark]) -> Any:  # noqa: ANN401 - any YAML value
    """Return the value that a text of YAML has, such as `[a, b]`; note where it and all below it stand.

    Scalars stay texts, but for `null`: on a command line `4` is as good as `"4"`, and the model knows what is meant.

    Raises:
        SpecError: It is no YAML.
    """
    try:
        _refuse_anchors(mark.file, text)
        node = yaml.compose(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError) as exc:
        raise SpecError(f"{mark}: is no value in YAML; quote it") from exc
    below: dict[Place, Mark] = {}
    value = None if node is None or text.strip() == "null" else _plain(node, place, mark.file, below)
    marks.update(dict.fromkeys([*below, place], mark))
    return value


def _refuse_anchors(file: Path, text: str) -> None:
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise SpecError(f"{file}:{line}: has an anchor; write the value out in each place")


def _plain(node: yaml.Node, place: Place, file: Path, marks: dict[Place, Mark]) -> Any:  # noqa: ANN401 - any YAML value
    """Return a node's value; note where it and all below it stand."""
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = Mark(file, key_node.start_mark.line + 1)
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{mark}: the key is no text")
            key = str(key_node.value)
            if key in values:
                raise SpecError(f"{mark}: {dotted((*place, key))}: is there twice; leave one")
            marks[*place, key] = mark
            values[key] = _plain(value_node, (*place, key), file, marks)
        return values
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            marks[*place, index] = Mark(file, item.start_mark.line + 1)
        return [_plain(item, (*place, index), file, marks) for index, item in enumerate(node.value)]
    return _scalar(node)


def _scalar(node: yaml.Node) -> object:
    text = str(node.value)
    match node.tag.rpartition(":")[2]:
        case "null":
            return None
        case "bool":
            return text == "true"
        case "int":
            return int(text)
        case "float":
            return float(text)
        case _:
            return text


def dotted(place: Place) -> str:
    """Return a place as people write it: `queues.entries[2].name`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return text.removeprefix(".")
