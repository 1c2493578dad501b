"""Profiles as text, for tests."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ABOUT = "source: the machine itself\n  checked: 2026-11-21\n  confidence: H"

SMALL = f"""\
schema: 1
name: small
title: A small cluster
scheduler:
  {ABOUT}
  kind: slurm
  launcher: srun
queues:
  {ABOUT}
  default: short
  entries:
    - name: short
      max_nodes: 4
      max_walltime: 1h
    - name: long
      max_nodes: 2
      max_walltime: 24h
"""


def write(folder: Path, name: str, text: str) -> Path:
    """Write a profile's file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(textwrap.dedent(text))
    return path
