"""Programs on PATH that stand for container engines: they note how they were called, and say what they are told to."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Engines:
    """A folder of programs that is the whole PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._calls = folder / "calls"

    def add(self, name: str, *, out: str = "", err: str = "", code: int = 0, **by_word: str) -> None:
        """Put a program on PATH.

        Args:
            name: Of the program.
            out: What it prints.
            err: What it prints on stderr.
            code: Its exit code.
            by_word: What it prints instead, with exit code 0, when its arguments hold this word.
        """
        cases = "".join(
            f"  *{word}*) printf '%s\\n' {shlex.quote(text)}; exit 0 ;;\n" for word, text in by_word.items()
        )
        script = self.folder / name
        script.write_text(
            "#!/bin/sh\n"
            f'for word in {name} "$@"; do printf "%s\\0" "$word"; done >>{self._calls}\n'
            f"printf '\\n' >>{self._calls}\n"
            f'case "$*" in\n{cases}esac\n'
            f"[ -z {shlex.quote(out)} ] || printf '%s\\n' {shlex.quote(out)}\n"
            f"[ -z {shlex.quote(err)} ] || printf '%s\\n' {shlex.quote(err)} >&2\n"
            f"exit {code}\n"
        )
        script.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        """The command lines so far."""
        if not self._calls.exists():
            return []
        return [line.rstrip("\0").split("\0") for line in self._calls.read_text().split("\0\n") if line]


def inspected(architecture: str = "amd64", size: int = 370_000_000) -> str:
    """Return what `podman image inspect` prints of an image of ours; fields that nothing reads are left out."""
    labels = {
        "org.opencontainers.image.version": "0.1.0",
        "org.opencontainers.image.revision": "unknown",
        "org.opencontainers.image.base.name": "localhost/base",
    }
    image = {
        "Id": "89e4b3d9",
        "Created": "2026-11-21T22:48:06Z",
        "Architecture": architecture,
        "Size": size,
        "Config": {"Labels": labels},
        "RootFS": {"Type": "layers", "Layers": ["sha256:1", "sha256:2"]},
    }
    return json.dumps([image])


def sif(path: Path, architecture: bytes = b"02") -> Path:
    """Write the head of a file of Apptainer."""
    path.write_bytes(
        b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\x0001\0" + architecture + b"\0" * 40
    )
    return path
