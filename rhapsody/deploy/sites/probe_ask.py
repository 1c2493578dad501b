"""Commands of a machine that are asked what it is, and words that their answers share."""

from __future__ import annotations

import re

from rhapsody.errors import BackendError
from rhapsody.session import machine_commands
from rhapsody.session.machine_commands import CommandError, CommandLate

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
    try:
        return machine_commands.ask(command)
    except CommandLate as exc:
        raise BackendError(f"{exc}; try again") from exc
    except CommandError as exc:
        raise BackendError(f"{exc}; run this where you submit jobs, or name another --scheduler") from exc


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
