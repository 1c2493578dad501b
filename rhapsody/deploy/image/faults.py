"""What an engine's complaint means, and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import BackendError, SpecError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.errors import RhapsodyError

OWN = "rhapsody-image: "
"""Lines of the build that begin so are ours: `rhapsody-image: KIND: what is wrong`. Engines print the command, too."""
_LAST_LINES = 6


class _Meaning(NamedTuple):
    pattern: re.Pattern[str]
    what: str
    fix: str
    again: bool
    """Whether another try may work."""


def _meaning(pattern: str, what: str, fix: str, *, again: bool = False) -> _Meaning:
    return _Meaning(re.compile(pattern, re.IGNORECASE), what, fix, again)


# From what buildah 1.28, podman 4.3, docker 28 and Apptainer 1.4 print; checked 2026-11. The first that fits counts.
_MEANINGS = (
    _meaning(
        rf"(?m)^(?:#\d+ [\d.]+ )?{OWN}base-python: (?P<said>.*)$",
        "{said}",
        "give a base image with Python 3.11, such as docker.io/library/python:3.11-slim, by --base",
    ),
    _meaning(
        r"/opt/rhapsody/bin/python[^\n]*(?:not found|no such file)|no module named '?rhapsody",
        "there is no RHAPSODY in the image, or an old one",
        "build one: rhapsody image build",
    ),
    _meaning(
        r"no space left on device|disk quota exceeded",
        "the disk is full",
        "remove images that nobody needs (podman image prune), or give the engine another place (TMPDIR for the build,"
        " graphroot in storage.conf for images)",
        again=True,
    ),
    _meaning(
        r"do not match the hashes",
        "a package is not the one that locks/image.txt names",
        "look at what was said; make the lock anew (make lock) only if you trust the new one",
    ),
    _meaning(
        r"x509|certificate[ _]verify[ _]failed|certificate signed by unknown",
        "a certificate on the way to the internet is not known",
        "give those of your proxy by --ca FILE; for a registry, as its engine's documentation says",
    ),
    _meaning(
        r"exec format error|does not match the (?:specified|expected|host) platform"
        r"|no image found in .* for architecture|image is built for a different architecture",
        "the image is of another architecture than this machine",
        "build it on a machine of this architecture, or give an image that has it",
    ),
    _meaning(
        r"unauthorized|authentication required|denied: |access to the resource is denied|403 \(?forbidden",
        "the registry does not let you in",
        "log in first (podman login REGISTRY), or check the name",
    ),
    _meaning(
        r"image not known|no such image|no such object|manifest unknown|name unknown|repository does not exist"
        r"|could not open image|short-name .* did not resolve|docker://localhost/.*connection refused",
        "the image is not there",
        "look at what there is (podman images), build it (rhapsody image build), or check the name",
    ),
    _meaning(
        r"dial tcp|no such host|temporary failure in name resolution|connection refused|i/o timeout"
        r"|network is unreachable|could not connect|max retries exceeded",
        "something on the internet cannot be reached",
        "set https_proxy if there is one, give another --base, or make one from Debian's packages (scripts/base-image)",
        again=True,
    ),
    _meaning(
        r"/etc/subuid|insufficient uids or gids|newuidmap",
        "this user may not make containers: there are no subordinate user ids",
        "ask the administrator for: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
    ),
    _meaning(
        r"operation not permitted|permission denied",
        "the engine may not do what it has to",
        "inside of a container try BUILDAH_ISOLATION=chroot, and `-- --network host` at the end",
    ),
)


def fault(command: Sequence[str], said: str, code: int) -> RhapsodyError:
    """Return the error for a command that failed.

    Args:
        command: With its arguments.
        said: What it printed.
        code: Its exit code.
    """
    lines = [line for line in said.strip().splitlines() if line.strip()]
    name = f"{Path(command[0]).name} {command[1]}" if len(command) > 1 else command[0]
    for meaning in _MEANINGS:
        if found := meaning.pattern.search(said):
            what = meaning.what.format(**found.groupdict())
            kind = BackendError if meaning.again else SpecError
            line = next((line for line in reversed(lines) if meaning.pattern.search(line)), lines[-1])
            return kind(f"{what}; {meaning.fix}\n`{name}` said:\n  {line.strip()}")
    quoted = "\n  ".join(lines[-_LAST_LINES:])
    return BackendError(f"`{name}` failed with exit code {code}; it said:\n  {quoted or 'nothing'}")
