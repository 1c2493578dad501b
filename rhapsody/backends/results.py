"""Values and failures of tasks, as bytes on their way from a worker to the session."""

from __future__ import annotations

import marshal
import pickle
import traceback
from typing import Any

from rhapsody.backends import wire
from rhapsody.errors import RemoteError
from rhapsody.model import pickling

_TEXT_LIMIT = 16 << 10
"""Characters of a failure's message, and of its traceback."""


def encode_value(value: object) -> tuple[int, bytes]:
    """Return a record's kind and bytes for a function's value; a failure when it cannot travel."""
    if value is None:
        return wire.NONE, b""
    if type(value) in wire.SCALAR_TYPES:
        data = marshal.dumps(value)  # type: ignore[arg-type]
        if len(data) <= wire.VALUE_LIMIT_BYTES:
            return wire.SCALARS, data
        return encode_failure(_too_large(len(data)), cause="result")
    try:
        return wire.PICKLED, pickle_value(value)
    except BaseException as exc:  # noqa: BLE001 - the user's __reduce__ may raise anything
        return encode_failure(exc, cause="result", what=f"its value of type {type(value).__name__} cannot be sent back")


def pickle_value(value: object) -> bytes:
    """Return a value pickled: by reference where that can be read elsewhere, else by value.

    Raises:
        ValueError: It is larger than `wire.VALUE_LIMIT_BYTES`.
    """
    data = pickling.pickle_value(value)
    if len(data) > wire.VALUE_LIMIT_BYTES:
        raise _too_large(len(data))
    return data


def _too_large(size: int) -> ValueError:
    limit = wire.VALUE_LIMIT_BYTES
    return ValueError(
        f"{size:,} bytes are more than the {limit:,} that one value may have; write it to a file and pass the path"
    )


def encode_failure(exc: BaseException, *, cause: str = "exception", what: str = "") -> tuple[int, bytes]:
    """Return a record's kind and bytes for an exception, with the traceback from the user's code on."""
    frames = exc.__traceback__
    while frames is not None and _is_ours(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    text = _cut("".join(traceback.format_exception(type(exc), exc, frames))) if cause == "exception" else ""
    said = str(exc) if cause == "launch" else _describe(exc)
    failure = {
        "cause": cause,
        "message": f"{what}: {said}" if what else said,
        "exception": _pickle_exception(exc),
        "traceback": text,
    }
    return wire.RICH, marshal.dumps(failure)


def _is_ours(filename: str) -> bool:
    return "/rhapsody/backends/" in filename


def _describe(exc: BaseException) -> str:
    try:
        text = str(exc)
    except BaseException:  # noqa: BLE001 - the user's __str__
        text = "(its message cannot be shown)"
    return _cut(f"{type(exc).__name__}: {text}") if text else type(exc).__name__


def _cut(text: str) -> str:
    """Return a text with the middle left out when it is too long to be read, kept and sent."""
    if len(text) <= _TEXT_LIMIT:
        return text
    half = _TEXT_LIMIT // 2
    return f"{text[:half]} [… {len(text) - 2 * half:,} characters left out …] {text[-half:]}"


def _pickle_exception(exc: BaseException) -> bytes:
    """Return the exception pickled; a `RemoteError` in its place when it does not come back whole."""
    try:
        data = pickle_value(exc)
        if isinstance(pickle.loads(data), BaseException):  # noqa: S301 - just made here
            return data
    except BaseException:  # noqa: BLE001, S110 - the user's __reduce__ or __init__
        pass
    kind = type(exc)
    return pickle.dumps(RemoteError(f"{kind.__module__}.{kind.__qualname__}", _describe(exc)))


def decode_value(kind: int, data: bytes) -> Any:  # noqa: ANN401 - whatever the user's function returned
    """Return the value that a record carries.

    Raises:
        Exception: Whatever unpickling raises: a class that the session cannot import, for one.
    """
    if kind == wire.NONE:
        return None
    if kind == wire.SCALARS:
        return marshal.loads(data)  # noqa: S302 - from a worker that showed the token
    return pickle.loads(data)  # noqa: S301 - from a worker that showed the token
