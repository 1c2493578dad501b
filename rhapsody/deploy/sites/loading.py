"""Finding and loading site profiles.

A profile is looked for in the folders of `$RHAPSODY_SITE_PATH`, then in `~/.config/rhapsody/sites`, then among those
shipped. With `extends: NAME` it starts from another profile: mappings are merged key by key, lists are replaced, `null`
takes a value away. A profile may extend the one of its own name further down the path.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from rhapsody.deploy.assets import asset_folder
from rhapsody.deploy.sites.block import Block, Confidence
from rhapsody.deploy.sites.changes import changed
from rhapsody.deploy.sites.document import Document, Mark, Place, read_document
from rhapsody.deploy.sites.faults import refusal
from rhapsody.deploy.sites.profile import SiteProfile
from rhapsody.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SITE_PATH = "RHAPSODY_SITE_PATH"
ENDING = ".yaml"
_OWN_FOLDER = Path("~/.config/rhapsody/sites")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_OF_THE_FILE = ("schema", "name", "title", "extends", "url")
"""Keys that are not inherited."""
_ABOUT = ("source", "checked", "confidence")
_SUREST_FIRST = tuple(Confidence)


class SiteFile(NamedTuple):
    """A profile's file.

    Attributes:
        name: Of the site.
        path: Of the file.
        shipped: Whether it came with RHAPSODY.
    """

    name: str
    path: Path
    shipped: bool


def site_folders(environ: Mapping[str, str] = os.environ) -> list[Path]:
    """Return the folders that are searched, the first one wins; some may not exist."""
    own = [Path(part).expanduser() for part in environ.get(SITE_PATH, "").split(os.pathsep) if part]
    return [*own, _OWN_FOLDER.expanduser(), asset_folder("site-profiles")]


def find_sites(environ: Mapping[str, str] = os.environ) -> list[SiteFile]:
    """Return all profiles by name; of two with the same name the one that is found first."""
    found: dict[str, SiteFile] = {}
    for file in _all_files(environ):
        found.setdefault(file.name, file)
    return sorted(found.values())


def load_site(name: str, environ: Mapping[str, str] = os.environ, changes: Sequence[str] = ()) -> SiteProfile:
    """Load the profile of a site.

    Args:
        name: Of the site.
        environ: Names the folders that are searched.
        changes: `block.key=value` each, with the value in YAML: what is to be different this time.

    Raises:
        SpecError: There is none of that name, or something is wrong with its file, one it extends, or a change.
    """
    return load_site_file(_find(name, (), environ), environ, changes)


def load_site_file(file: Path, environ: Mapping[str, str] = os.environ, changes: Sequence[str] = ()) -> SiteProfile:
    """Load a profile from a file, wherever it lies.

    Args:
        file: Of the profile.
        environ: Names the folders that are searched for those that it extends.
        changes: As for `load_site`.

    Raises:
        SpecError: Something is wrong with it or one that it extends; each line names file, line and key.
    """
    document = changed(_read_with_parents(file, (), environ), changes)
    try:
        profile = SiteProfile.model_validate(document.data)
    except ValidationError as exc:
        raise refusal(exc, SiteProfile, document.marks) from exc
    if profile.name != file.stem:
        mark = document.marks["name",]
        raise SpecError(f"{mark}: name: is {profile.name!r} in the file {file.name}; make them equal")
    return profile


def require_name(name: str) -> None:
    """Refuse what cannot be the name of a site.

    Raises:
        SpecError: It has other characters than names have.
    """
    if not _NAME.fullmatch(name):
        raise SpecError(f"{name!r} cannot be the name of a site: letters, digits, `.`, `_`, `+` and `-`")


def write_draft(text: str, name: str, file: Path | None = None) -> Path:
    """Write a new profile and return its path: where one is looked for, unless told.

    Raises:
        SpecError: The name cannot be one, the file is there, or cannot be written.
    """
    require_name(name)
    file = file or _OWN_FOLDER.expanduser() / f"{name}{ENDING}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x") as new:
            new.write(text)
    except FileExistsError as exc:
        raise SpecError(f"{file} is there already; remove it, or name another with --out") from exc
    except OSError as exc:
        raise SpecError(f"cannot write {file}: {exc.strerror}; name another with --out") from exc
    return file


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a profile's file, for editors; what may come from another profile is not required."""
    schema = SiteProfile.model_json_schema(by_alias=True)
    schema["required"] = ["schema", "name", "title"]
    for definition in schema["$defs"].values():
        if set(_ABOUT) <= set(definition.get("properties", ())):
            definition["required"] = list(_ABOUT)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "RHAPSODY site profile"}


def _all_files(environ: Mapping[str, str]) -> list[SiteFile]:
    *own, shipped = site_folders(environ)
    files: list[SiteFile] = []
    for folder in (*own, shipped):
        try:
            paths = sorted(path for path in folder.iterdir() if path.suffix == ENDING)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as exc:
            raise SpecError(f"cannot read the folder of site profiles {folder}: {exc.strerror}") from exc
        files += [SiteFile(path.stem, path, folder is shipped) for path in paths]
    return files


def _find(name: str, not_these: tuple[Path, ...], environ: Mapping[str, str]) -> Path:
    files = _all_files(environ)
    for file in files:
        if file.name == name and file.path.resolve() not in not_these:
            return file.path
    raise unknown_name("site", name, {file.name for file in files})


def _read_with_parents(file: Path, below: tuple[Path, ...], environ: Mapping[str, str]) -> Document:
    """Read a file and those it extends, merged.

    Args:
        file: To be read.
        below: Files that lead here by `extends`.
        environ: Names the folders that are searched.
    """
    own = read_document(file)
    _require_sources(own)
    parent = own.data.get("extends")
    if parent is None:
        return own
    mark = own.marks["extends",]
    path = (*below, file.resolve())
    try:
        parent_file = _find(str(parent), path, environ)
    except SpecError as exc:
        if str(parent) in {each.stem for each in path}:
            chain = " → ".join([*(each.stem for each in path), str(parent)])
            raise SpecError(f"{mark}: extends: goes round in a circle: {chain}") from exc
        raise SpecError(f"{mark}: extends: {exc}") from exc
    return _merged(_read_with_parents(parent_file, path, environ), own)


def _require_sources(document: Document) -> None:
    """Refuse a file one of whose blocks does not say itself where it is from: it would borrow its parent's source."""
    for key, field in SiteProfile.model_fields.items():
        value = document.data.get(key)
        if not isinstance(value, dict) or not _is_block(field.annotation):
            continue
        if missing := [each for each in _ABOUT if value.get(each) is None]:
            raise SpecError(
                f"{document.marks[key,]}: {key}: lacks {', '.join(missing)}; every block says who says so, when that"
                " was looked up (2026-11-30) and how sure it is (H, M, L, U)"
            )


def _is_block(annotation: Any) -> bool:  # noqa: ANN401 - annotations are of no common type
    kinds = getattr(annotation, "__args__", (annotation,))
    return any(isinstance(kind, type) and issubclass(kind, Block) for kind in kinds)


def _merged(parent: Document, child: Document) -> Document:
    inherited = {key: value for key, value in parent.data.items() if key not in _OF_THE_FILE}
    marks = {place: mark for place, mark in parent.marks.items() if not place or place[0] not in _OF_THE_FILE}
    data = _overlay(inherited, child.data, (), marks)
    marks.update(child.marks)
    for key in inherited.keys() & child.data.keys():
        _join_sources(data[key], inherited[key], child.data[key])
    return Document(data, marks)


def _overlay(below: dict[str, Any], above: dict[str, Any], place: Place, marks: dict[Place, Mark]) -> dict[str, Any]:
    """Return two mappings as one; forget the lines of what is replaced."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _overlay(old, value, (*place, key), marks)
            continue
        here = (*place, key)
        for each in [each for each in marks if each[: len(here)] == here]:
            del marks[each]
        result[key] = value
    return result


def _join_sources(block: Any, inherited: Any, own: Any) -> None:  # noqa: ANN401 - values of YAML
    """Name both sources in a block that is made of two, and be no surer than of the less sure one.

    What is inherited and says nothing, or of which nothing is left, adds nothing.
    """
    if not (isinstance(block, dict) and isinstance(inherited, dict) and isinstance(own, dict)):
        return
    left = inherited.keys() - own.keys() - {"notes", "unknown"}
    if not left or inherited.get("confidence") == Confidence.UNKNOWN:
        return
    first, second = block.get("source"), inherited.get("source")
    if isinstance(first, str) and isinstance(second, str) and first != second:
        block["source"] = f"{first}; the rest: {second}"
    known = [each for each in _SUREST_FIRST if each in {block.get("confidence"), inherited.get("confidence")}]
    if known and block.get("confidence") in _SUREST_FIRST:
        block["confidence"] = known[-1]
