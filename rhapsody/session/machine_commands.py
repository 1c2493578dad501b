"""Commands of a machine, such as those of its batch system: what they answer, within a limit, or why they do not."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

LIMIT_S = 60.0
"""Seconds that a command may take to answer, unless a caller says otherwise."""


class CommandError(BackendError):
    """A command gave no answer; the text says which and why.

    Attributes:
        stdout: What it had printed.
        stderr: What it had said of errors.
        code: Its exit code, negative where a signal ended it; None where it did not end by itself, or never began.
    """

    def __init__(self, message: str, stdout: str = "", stderr: str = "", code: int | None = None) -> None:
        super().__init__(message)
        self.stdout = stdout
        self.stderr = stderr
        self.code = code

    def __reduce__(self) -> tuple[type[CommandError], tuple[str, str, str, int | None]]:
        return type(self), (str(self), self.stdout, self.stderr, self.code)


class CommandMissing(CommandError):  # noqa: N818 - says what happened, as the errors of tasks do
    """It cannot be run: it is not there, or may not be executed."""


class CommandLate(CommandError):  # noqa: N818
    """It did not answer in time, and was ended with all that it had started."""


class CommandFailed(CommandError):  # noqa: N818
    """It ended with an exit code other than 0."""


class Said(NamedTuple):
    """What a command printed.

    Attributes:
        stdout: As it is.
        stderr: As it is.
    """

    stdout: str
    stderr: str


def plain_answers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which commands answer in English, with moments in UTC, written in full."""
    return {**environ, "LC_ALL": "C", "TZ": "UTC", "SLURM_TIME_FORMAT": "standard"}


def ask(
    command: Sequence[str],
    *,
    limit_s: float = LIMIT_S,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
) -> str:
    """Return what a command prints; see `ask_both`."""
    return ask_both(command, limit_s=limit_s, environ=environ, stdin=stdin, cwd=cwd).stdout


def ask_both(
    command: Sequence[str],
    *,
    limit_s: float = LIMIT_S,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
) -> Said:
    """Return what a command prints and what it says on stderr.

    Args:
        command: Its words; no shell reads them.
        limit_s: Seconds until it is given up.
        environ: Its environment, whose PATH also says where it is; this process's in `plain_answers` if None.
        stdin: Text that it reads.
        cwd: Where it runs; here if None.

    Raises:
        CommandMissing: It cannot be run.
        CommandLate: It did not answer in time.
        CommandFailed: Its exit code is not 0.
    """
    shown = " ".join(command)
    try:
        child = subprocess.Popen(  # noqa: S603 - the machine's own command, as PATH names it
            command,
            env=plain_answers(os.environ) if environ is None else environ,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            cwd=cwd,
            process_group=0,
        )
    except OSError as exc:
        raise CommandMissing(f"`{shown}`: {exc.strerror}") from exc
    with child:
        try:
            said = Said(*child.communicate(stdin or None, timeout=limit_s))
        except subprocess.TimeoutExpired as exc:
            raise CommandLate(f"`{shown}` did not answer within {limit_s:g} s") from exc
        finally:
            _end(child)
    if child.returncode:
        last = said.stderr.strip().rpartition("\n")[2] or f"exit code {child.returncode}"
        raise CommandFailed(f"`{shown}` failed: {last}", said.stdout, said.stderr, child.returncode)
    return said


def _end(child: subprocess.Popen[str]) -> None:
    """End what still runs, also what the command has started: sites wrap the commands of batch systems in scripts."""
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
