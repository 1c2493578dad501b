"""Commands of a machine that are asked what it is, and words that their answers share."""

from __future__ import annotations

import os
import re
import subprocess

from rhapsody.errors import BackendError

ANSWER_LIMIT_S = 60
_VENDORS = {
    "nvidia": re.compile(r"nvidia|tesla|rtx|gtx|quadro|gh?200|b200|[avhlptk]\d{1,4}(?![a-z0-9])", re.IGNORECASE),
    "amd": re.compile(r"amd|mi\d{2,3}|gfx", re.IGNORECASE),
    "intel": re.compile(r"intel|pvc|ponte", re.IGNORECASE),
}


def ask(*command: str) -> str:
    """Return what a command prints.

    Raises:
        BackendError: It fails, is not there, or does not answer in time; the text has what it said.
    """
    shown = " ".join(command)
    try:
        done = subprocess.run(  # noqa: S603 - the machine's own command, as PATH names it
            command,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BackendError(f"`{shown}` did not answer within {ANSWER_LIMIT_S} s; try again") from exc
    except OSError as exc:
        raise BackendError(f"`{shown}` cannot be run: {exc.strerror}") from exc
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
        raise BackendError(f"`{shown}` failed: {said}; run this where you submit jobs, or name another --scheduler")
    return done.stdout


def vendor_of(model: str) -> str | None:
    """Return whose a GPU is by the name that the batch system gives it; None where the name does not tell."""
    found = [vendor for vendor, pattern in _VENDORS.items() if pattern.match(model)]
    return found[0] if len(found) == 1 else None


def kind_names(hosts: list[list[str]]) -> list[str]:
    """Return a name for each group of hosts: what their names begin with, numbered where that does not tell."""
    names: list[str] = []
    for number, group in enumerate(hosts, 1):
        stems = {re.split(r"\d", host, maxsplit=1)[0].strip("-_.") for host in group}
        stem = stems.pop() if len(stems) == 1 else ""
        names.append(stem if stem and stem not in names and stem.isalnum() else f"kind{number}")
    return names
