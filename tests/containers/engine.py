"""Runs `rhapsody image`, podman and Apptainer for tests."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from click.testing import CliRunner

from rhapsody.cli.image import image as image_command

if TYPE_CHECKING:
    from pathlib import Path

LIMIT_S = 120
HARMLESS = ("--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges")
"""A container that may do as little as possible."""

CAMPAIGN = '''
"""Functions, a program, and a function over MPI."""

import os

from rhapsody import ComputeTask, Resources


def count_ranks():
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(1)


async def campaign(session, args):
    squares = [ComputeTask(pow, args=(number, 2)) for number in range(10)]
    ranks = ComputeTask(count_ranks, resources=Resources(ranks=2))
    who = ComputeTask(executable="id", arguments=["-u"])
    await session.submit([*squares, ranks, who])
    total = sum([(await square).return_value for square in squares])
    print("seen", total, (await ranks).return_value, (await who).stdout.strip())
'''


def rhapsody_image(*words: str) -> tuple[int, str]:
    """Run `rhapsody image` and return its exit code and what it said."""
    done = CliRunner().invoke(image_command, list(words))
    return done.exit_code, done.output


def run(*command: str, folder: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def podman(image: str, *command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in a container of an image."""
    return run("podman", "run", "--rm", *HARMLESS, *options, image, *command)
