"""Machines for tests: commands on PATH that answer as told, and folders that stand for /proc and /sys."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rhapsody.deploy.doctor.examination import Finding, Patient
from rhapsody.deploy.sites.loading import load_site_file
from tests.unit.deploy.texts import ABOUT, write

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.deploy.sites.profile import SiteProfile

SLURM = f"""\
schema: 1
name: here
title: A cluster for tests
scheduler:
  {ABOUT}
  kind: slurm
  launcher: srun
"""
PBS = SLURM.replace("kind: slurm", "kind: pbs").replace("launcher: srun", "launcher: mpiexec")


class Machine:
    """A folder of commands that is the whole PATH, a folder for /proc and /sys, and one of runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.commands = folder / "bin"
        self.root = folder / "root"
        self.runs = folder / "runs"
        self.commands.mkdir()
        (self.root / "proc").mkdir(parents=True)

    def says(self, command: str, stdout: str = "", *, stderr: str = "", exit_code: int = 0) -> None:
        """Put a command on PATH that answers so whatever it is asked, and notes what it was asked."""
        script = self.commands / command
        script.write_text(
            f'#!/bin/sh\necho "$*" >> {self._asked(command)}\nprintf %s {shlex.quote(stdout)}\n'
            f"printf %s {shlex.quote(stderr)} >&2\nexit {exit_code}\n"
        )
        script.chmod(0o755)

    def asked(self, command: str) -> list[str]:
        """Return the arguments with which a command was called, a line for each call."""
        file = self._asked(command)
        return file.read_text().splitlines() if file.exists() else []

    def mounts(self, **kinds: Path) -> None:
        """Let /proc/mounts name file systems by kind."""
        lines = ["/dev/vda / ext4 rw 0 0", *(f"none {point} {kind} rw 0 0" for kind, point in kinds.items())]
        (self.root / "proc/mounts").write_text("\n".join(lines) + "\n")

    def patient(self, **more: object) -> Patient:
        """Return this machine to be examined; an environment and a host unless they are given."""
        given = {"runs": self.runs, "environ": {}, "root": self.root, "host": "login1.here.org", "user": "ada", **more}
        return Patient(**given)  # type: ignore[arg-type]

    def profile(self, text: str = SLURM) -> SiteProfile:
        """Return the profile that a text is."""
        return load_site_file(write(self.folder / "sites", "here", text), {})

    def _asked(self, command: str) -> Path:
        return self.folder / f"{command}.asked"


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Return findings by their names, which differ."""
    found = {finding.name: finding for finding in findings}
    assert len(found) == len(findings), [finding.name for finding in findings]
    return found
