"""What pydantic says of a profile, in words: which file and line, which key, what is wrong, how to mend it."""

from __future__ import annotations

import difflib
import typing
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from rhapsody.deploy.sites.document import Mark, Place, dotted
from rhapsody.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_MOST = 20


def refusal(error: ValidationError, model: type[BaseModel], marks: Mapping[Place, Mark]) -> SpecError:
    """Return all that is wrong with a profile, a line for each fault."""
    faults = sorted((_fault(each, model, marks) for each in error.errors(include_url=False)), key=_order)
    lines = [f"{mark}: {text}" for mark, text in faults[:_MOST]]
    if len(faults) > _MOST:
        lines.append(f"… and {len(faults) - _MOST} more")
    return SpecError("\n".join(lines))


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """Return what to say of a key that does not exist."""
    names = sorted(valid)
    near = difflib.get_close_matches(key, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"there is no such key{hint}; keys here: {', '.join(names)}"


def _order(fault: tuple[Mark, str]) -> tuple[str, int, str]:
    mark, text = fault
    return str(mark.file), mark.line, text


def _fault(error: ErrorDetails, model: type[BaseModel], marks: Mapping[Place, Mark]) -> tuple[Mark, str]:
    place = tuple(part for part in error["loc"] if part != "[key]")
    while place and place not in marks and error["type"] != "missing":
        place = place[:-1]  # pydantic's names for the branch of a union are no keys
    mark = _mark_of(place, marks)
    return mark, f"{dotted(place) or 'the profile'}: {_text(error, place, model)}"


def _mark_of(place: Place, marks: Mapping[Place, Mark]) -> Mark:
    while place not in marks:
        place = place[:-1]
    return marks[place]


def _text(error: ErrorDetails, place: Place, model: type[BaseModel]) -> str:
    given = error.get("input")
    match error["type"]:
        case "extra_forbidden":
            return unknown_key(str(place[-1]), _keys_of(_model_at(place[:-1], model)))
        case "missing":
            return f"is missing; {_meaning(place)}"
        case "string_type" if isinstance(given, int | float):
            return f'{given!r} is a number here; put it in quotes: "{given}"'
        case "value_error":
            return str(error["ctx"]["error"]) if "ctx" in error else error["msg"]
        case "string_pattern_mismatch":
            return f"{given!r} has characters that are not allowed here, or is empty; it must match {_pattern(error)}"
        case _:
            message = error["msg"][0].lower() + error["msg"][1:]
            return f"{message}, but it is {given!r}"


def _pattern(error: ErrorDetails) -> str:
    return str(error.get("ctx", {}).get("pattern", "its pattern"))


def _meaning(place: Place) -> str:
    key = str(place[-1])
    words = {
        "source": "say who says so: a page, a file, a person",
        "checked": "say when it was looked up, as 2026-11-30",
        "confidence": "say how sure it is: H, M, L or U",
        "schema": "write `schema: 1`",
    }
    return words.get(key, f"add `{key}:`")


def _model_at(place: Place, model: type[BaseModel]) -> type[BaseModel]:
    """Return the model whose keys stand at a place."""
    found = model
    for part in place:
        if isinstance(part, str) and (field := _fields(found).get(part)) is not None:
            found = _model_in(field) or found
    return found


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field.annotation for name, field in model.model_fields.items()}


def _keys_of(model: type[BaseModel]) -> list[str]:
    return list(_fields(model))


def _model_in(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - annotations are of no common type
    """Return the model inside an annotation such as `tuple[Queue, ...] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(each) for each in typing.get_args(annotation))
    return next((each for each in found if each is not None), None)
