"""A worker that Dragon has started: gets its memory from the warden, then works for the pool like any other.

It stays in Dragon's process group: of one that leaves it, Dragon 0.15.0 does not learn that it has ended
(`LocalServer.watch_death` waits for its own group).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from rhapsody.backends import worker
from rhapsody.backends.dragon import link
from rhapsody.backends.notebook import Descriptors


def main(folder: str, worker_id: str) -> None:
    """Be a worker of the pool.

    Args:
        folder: The pool's private folder.
        worker_id: The pool's name for this worker.
    """
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):  # the warden ignores them, and all that it starts
        signal.signal(number, signal.SIG_DFL)
    connection, welcome, descriptors = link.greet(Path(folder), int(worker_id))
    connection.close()
    own = {name: value for name, value in os.environ.items() if "DRAGON" in name}
    os.environ.clear()  # it is that of the host on which Dragon's head program runs
    os.environ.update(welcome.environ | own)
    os.sched_setaffinity(0, welcome.cpus)
    sys.path[:] = welcome.sys_path
    memory = Descriptors(descriptors[0], (descriptors[1], descriptors[2])) if descriptors else None
    try:
        worker.run(welcome.address, welcome.token, int(worker_id), memory)
    except BaseException:  # noqa: BLE001 - the last frame: what Dragon has registered may not run after a failure
        sys.stderr = sys.__stderr__  # the worker's own keeps what tasks print; this goes to the log
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)
