"""One model server among several that serve the same model."""

from __future__ import annotations

import os
import re
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from rhapsody.errors import SpecError
from rhapsody.inference.request import COMPLETIONS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KeySource: TypeAlias = "Callable[[], str]"
"""Gives the key that a server wants to see; called when the replica is added to a router."""
_URL = re.compile(r"https?://[^\s/@?#]+(/[^\s?#]*)?", re.ASCII)


class ReplicaState(StrEnum):
    """Whether a replica gets requests."""

    READY = "ready"
    EJECTED = "ejected"
    """It failed, and gets nothing until a probe was answered."""
    DRAINING = "draining"
    """It gets nothing more, and ends what it has."""
    GONE = "gone"


class Replica:
    """A server with OpenAI's API.

    Attributes:
        uid: Tells it from others of a router.
        url: Without `/v1`: `http://node7:8000`.
        model: The name by which requests ask for it.
        key: Where its key is found; None where it wants none.
        weight: Its share of the work, relative to others: 2 for a server that is twice as fast.
        probe_path: Where a tiny request goes that shows whether it works: `/v1/embeddings` for what embeds only.
        state: Written by the router.
        reason: Why it is not ready; empty if it is.
    """

    __slots__ = ("key", "model", "probe_path", "reason", "state", "uid", "url", "weight")

    def __init__(
        self,
        uid: str,
        url: str,
        model: str,
        key: KeySource | None = None,
        *,
        weight: float = 1.0,
        probe_path: str = COMPLETIONS,
    ) -> None:
        if not _URL.fullmatch(url):
            raise SpecError(
                f"the URL of replica {uid!r} is none such as http://node7:8000; it holds no user and no key"
            )
        if not 0 < weight < float("inf"):
            raise SpecError(f"the weight of replica {uid!r} is {weight}; it must be above 0")
        self.uid = uid
        self.url = url.rstrip("/").removesuffix("/v1")
        self.model = model
        self.key = key
        self.weight = weight
        self.probe_path = probe_path
        self.state = ReplicaState.READY
        self.reason = ""

    def __repr__(self) -> str:
        return f"Replica({self.uid!r}, {self.url!r}, {self.model!r}, {self.state})"


def key_in_file(file: Path) -> KeySource:
    """Return a source that reads a file which only its owner may read."""
    return lambda: read_secret(file)


def key_in_variable(name: str) -> KeySource:
    """Return a source that reads a variable of the environment."""

    def read() -> str:
        if not (key := os.environ.get(name, "").strip()):
            raise SpecError(f"the variable {name} should hold the key of a model server, but is empty or not set")
        return key

    return read


def read_secret(file: Path) -> str:
    """Read a key or token from a file which only its owner may read.

    Raises:
        SpecError: It cannot be read, others may read it, or it holds no single line of text.
    """
    try:
        if (mode := file.stat().st_mode) & 0o077:
            raise SpecError(
                f"{file} holds a secret, but others may read or write it (mode {mode & 0o777:o}); chmod 600"
            )
        secret = file.read_text(encoding="ascii").strip()
    except OSError as exc:
        raise SpecError(f"cannot read the secret in {file}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise SpecError(f"the secret in {file} is not plain ASCII") from exc
    if not secret or not secret.isprintable() or " " in secret:
        raise SpecError(f"{file} should hold one word, the secret; it is empty or holds more")
    return secret
