"""The programs that build and run images: which of them this machine has, and how they are called."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from rhapsody.deploy.image.faults import fault
from rhapsody.errors import BackendError, SpecError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ANSWER_LIMIT_S = 60.0
_TAIL_LINES = 400
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64le", "s390x": "s390x"}
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}", re.ASCII)


class Use(StrEnum):
    """What an engine is wanted for."""

    BUILD = "build"
    RUN = "run"
    LOOK = "look at"
    PUSH = "push"


_ABLE = {
    Use.BUILD: ("buildah", "podman", "docker"),
    Use.RUN: ("podman", "docker"),
    Use.LOOK: ("podman", "buildah", "docker"),
    Use.PUSH: ("podman", "buildah", "docker"),
}
_INSTALL = "install one (Debian: apt-get install podman; in a checkout of RHAPSODY: scripts/container-tools)"


class Engine(NamedTuple):
    """A container engine of this machine.

    Attributes:
        name: `buildah`, `podman`, `docker` or `apptainer`.
        path: Of its command.
    """

    name: str
    path: str


def find_engine(use: Use, wanted: str | None = None) -> Engine:
    """Return an engine for a use: the one that is wanted, else the first that is there and answers.

    Raises:
        SpecError: There is none, or the one that is wanted cannot do that or is not there.
        BackendError: The one that is wanted does not answer.
    """
    able = _ABLE[use]
    if wanted is not None:
        if wanted not in able:
            raise unknown_name(f"engine to {use} an image with", wanted, able)
        return _engine(wanted)
    silent = []
    for name in able:
        try:
            return _engine(name)
        except BackendError as exc:
            silent.append(str(exc))
        except SpecError:
            continue
    said = f"; {'; '.join(silent)}" if silent else ""
    raise SpecError(f"no container engine to {use} an image with: looked for {', '.join(able)}{said}; {_INSTALL}")


def find_apptainer() -> Engine:
    """Return Apptainer, or Singularity, which has the same commands.

    Raises:
        SpecError: It is not there.
    """
    for name in ("apptainer", "singularity"):
        if path := shutil.which(name):
            return Engine("apptainer", path)
    raise SpecError(
        "an image file (.sif) needs Apptainer, and there is no apptainer on PATH; load your site's module or install it"
        " (in a checkout of RHAPSODY on Debian: scripts/container-tools)"
    )


def _engine(name: str) -> Engine:
    path = shutil.which(name)
    if path is None:
        raise SpecError(f"{name} is not on PATH; {_INSTALL}")
    if name == "docker":  # a client alone does nothing
        try:
            ask([path, "version", "--format", "{{.Server.Version}}"])
        except (BackendError, SpecError) as exc:
            said = str(exc).rpartition("\n")[2].strip().rstrip(".")
            raise BackendError(
                f"docker is there, but its service does not answer ({said}); start it (systemctl start docker), or"
                " install podman, which needs none"
            ) from exc
    return Engine(name, path)


def require_reference(image: str) -> str:
    """Return an image's name if it can be one.

    Raises:
        SpecError: It cannot; an option of an engine, say.
    """
    if _REFERENCE.fullmatch(image) is None:
        raise SpecError(
            f"{image!r} is no name of an image: letters, digits and . _ - : / @ are allowed, a letter or digit first;"
            " localhost/rhapsody:dev and registry.example.org/project/rhapsody:1.0 are names"
        )
    return image


def own_architecture() -> str:
    """Return this machine's architecture, as images call it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def ask(command: Sequence[str], limit_s: float = ANSWER_LIMIT_S) -> str:
    """Return what a command prints on stdout.

    Raises:
        RhapsodyError: It fails, cannot be started or does not answer in time.
    """
    try:
        done = subprocess.run(  # noqa: S603 - an engine, found on PATH
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise BackendError(f"`{' '.join(command)}` did not answer within {limit_s:g} s; try again") from exc
    except OSError as exc:
        raise BackendError(f"`{command[0]}` cannot be started: {exc.strerror}") from exc
    if done.returncode:
        raise fault(command, done.stderr or done.stdout, done.returncode)
    return done.stdout


def carry_out(command: Sequence[str], say: Callable[[str], None], **environment: str) -> None:
    """Run a command that takes its time, and hand on each line that it prints.

    Args:
        command: With its arguments.
        say: Called with each line, of stdout and stderr.
        environment: All variables of the command; this process's where none is given.

    Raises:
        RhapsodyError: It fails or cannot be started.
    """
    last: list[str] = []
    try:
        process = subprocess.Popen(  # noqa: S603 - an engine, found on PATH
            command,
            env=environment or None,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as exc:
        raise BackendError(f"`{command[0]}` cannot be started: {exc.strerror}") from exc
    try:
        for line in process.stdout or ():
            last = [*last[-_TAIL_LINES:], line]
            say(line.rstrip("\n"))
        code = process.wait()
    finally:
        _end(process)
    if code:
        raise fault(command, "".join(last), code)


def _end(process: subprocess.Popen[str]) -> None:
    """End a command that was interrupted; one that has ended is left alone."""
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
