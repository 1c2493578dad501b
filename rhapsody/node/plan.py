"""What an agent is told once at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from rhapsody.node.identity import Place

COMMANDS = 4096
JOIN_LIMIT_S = 300.0
LEAVE_AFTER_S = 20.0
"""A session ends its tasks within that; batch systems and Kubernetes kill 30 s after SIGTERM."""


class Plan(NamedTuple):
    """What an agent is told once at its start.

    Attributes:
        run_dir: The run folder.
        place: Which of how many nodes.
        names: Of this node, the best first.
        job: The batch system's id.
        hosts: Names of all nodes by rank; empty: rank 0 is found by the run folder.
        port: To listen on; 0 for any.
        credentials: Folder with the certificate and the token; None: rank 0 makes them, in the run folder.
        join_limit_s: So long nodes wait for each other.
        leave_after_s: So long a node that is told to end waits for the session to end the whole job.
        commands: So many command lines may run on this node at a time.
        session: On rank 0, the command to run once all nodes are there.
    """

    run_dir: Path
    place: Place
    names: tuple[str, ...]
    job: str = ""
    hosts: tuple[str, ...] = ()
    port: int = 0
    credentials: Path | None = None
    join_limit_s: float = JOIN_LIMIT_S
    leave_after_s: float = LEAVE_AFTER_S
    commands: int = COMMANDS
    session: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where agents of the run meet."""
        return self.run_dir / "deploy" / "nodes"
