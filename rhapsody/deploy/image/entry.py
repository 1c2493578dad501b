"""Starts Dragon by its own command inside an image, with what it needs to know of the container's shared memory."""

from __future__ import annotations

import os
import sys

from rhapsody.backends.dragon import surroundings
from rhapsody.errors import BackendError

_NOT_FOUND = 127


def main() -> None:
    """Become the command that the arguments are."""
    command = sys.argv[1:]
    try:
        found = surroundings.variables(surroundings.free_shared_memory(), len(os.sched_getaffinity(0)), os.environ)
    except BackendError as exc:
        sys.exit(f"rhapsody: {exc}")
    os.environ.update(found)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command that the container was started with
    except OSError as exc:
        sys.stderr.write(f"rhapsody: {command[0]} cannot be started: {exc.strerror}\n")
        sys.exit(_NOT_FOUND)


if __name__ == "__main__":
    main()
