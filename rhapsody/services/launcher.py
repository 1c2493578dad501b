"""Becomes one process of a replica, on its node: picks ports, says where it is, then runs the service in its place.

`python -m rhapsody.services.launcher SPEC`, started as a task is, once per rank. What it finds out, the session reads
from the replica's folder: `rank-0.json` and so on. Exit codes of its own are 70 and above, with the reason on standard
error.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rhapsody.backends.pool_folder import POOL_FOLDER
from rhapsody.node.files import write_whole
from rhapsody.node.identity import LAUNCHERS_OWN, STEP, own_addresses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EXIT_CODE = 70
_NAMES = "port|host|work_dir|state_dir|files|run_dir|replica|rank|ranks|leader_host|leader_port"
_PLACEHOLDER = re.compile(rf"\{{({_NAMES})\}}")
_LEADER_POLL_S = 0.1


def main() -> None:
    """Read what to start, find a place for it, and become it."""
    spec = json.loads(Path(sys.argv[1]).read_bytes())
    folder = Path(spec["folder"])
    rank, ranks = (
        int(os.environ.get(f"RHAPSODY_{name}", default)) for name, default in (("RANK", "0"), ("RANKS", "1"))
    )
    host = address_towards(spec["session_at"])
    port = _pick_port(host, spec["port"] if rank == 0 else None) if spec["listens"] else 0
    own = {
        "host": host,
        "port": port,
        "leader_port": _pick_port(host, None, but=port) if rank == 0 and ranks > 1 else 0,
    }
    work = folder / f"rank-{rank}"
    work.mkdir(mode=0o700, exist_ok=True)
    write_whole(folder / f"rank-{rank}.json", json.dumps(own | {"pid": os.getpid(), "rank": rank}).encode())
    leader = own if rank == 0 else _leader(folder / "rank-0.json", spec["ready_within_s"])
    values = {
        "port": port,
        "host": host,
        "work_dir": work,
        "state_dir": spec["state_dir"],
        "files": spec["files"],
        "run_dir": spec["run_dir"],
        "replica": spec["replica"],
        "rank": rank,
        "ranks": ranks,
        "leader_host": leader["host"],
        "leader_port": leader["leader_port"],
    }
    _become(spec, {name: str(value) for name, value in values.items()})


def _become(spec: Mapping[str, Any], values: Mapping[str, str]) -> NoReturn:
    env = {name: text for name, text in os.environ.items() if not name.startswith(LAUNCHERS_OWN) and name not in STEP}
    env |= _own_temporary_folder(env) | {name: fill(text, values) for name, text in spec["env"].items()}
    env |= {
        f"RHAPSODY_SERVICE_{name.upper()}": values[name]
        for name in ("host", "port", "replica", "work_dir", "state_dir")
    }
    if spec["secrets"]:
        env |= json.loads(Path(spec["secrets"]).read_bytes())
    extra = spec["extra_arguments"] if values["rank"] != "0" else []
    argv = [fill(text, values) for text in [*spec["argv"], *extra]]
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execvpe(argv[0], argv, env)  # noqa: S606 - becoming the user's service is the purpose
    except OSError as exc:
        fail(f"{argv[0]} did not start on {socket.gethostname()}: {exc.strerror}")


def _own_temporary_folder(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that names one which goes with the session, whatever a service leaves in it when killed."""
    pool = env.get(POOL_FOLDER, "")
    return {"TMPDIR": tempfile.mkdtemp(prefix="t", dir=pool)} if pool and Path(pool).is_dir() else {}


def fill(text: str, values: Mapping[str, str]) -> str:
    """Replace the placeholders in a text; other braces stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def address_towards(session_at: Sequence[str]) -> str:
    """Return the address of this node at which the session's node reaches it.

    Args:
        session_at: Addresses of the session's node, the best first; empty where all is on one node.
    """
    own = own_addresses()
    for address in session_at:
        if address in own:
            return address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as way:
            try:
                way.connect((address, 9))  # sends nothing: the system says from where it would
            except OSError:
                continue
            return str(way.getsockname()[0])
    return "127.0.0.1"


def _pick_port(host: str, wanted: int | None, *, but: int = 0) -> int:
    """Return a port that is free now: the one that is wanted, else any other than `but`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    while True:
        with socket.socket(family, socket.SOCK_STREAM) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
            try:
                free.bind((host, wanted or 0))
            except OSError as exc:
                where = f"{socket.gethostname()} ({host})"
                fail(f"port {wanted} on {where}: {exc.strerror}; leave out port= to take a free one")
            port = int(free.getsockname()[1])
        if port != but:
            return port


def _leader(path: Path, within_s: float) -> dict[str, Any]:
    """Return where rank 0 of this replica is."""
    deadline = time.monotonic() + within_s
    while not path.exists():
        if time.monotonic() > deadline:
            fail(f"rank 0 did not say within {within_s:g} s where it is: {path} is not there")
        time.sleep(_LEADER_POLL_S)  # network file systems tell nobody of new files
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def fail(reason: str) -> NoReturn:
    """End with the reason on standard error."""
    print(f"rhapsody: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - it goes to the service's log
    sys.exit(EXIT_CODE)


if __name__ == "__main__":
    main()
