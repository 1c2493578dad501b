"""The first process of a test host: makes the namespaces look like a machine of its own, then buries orphans.

Started by `namespaces.Hosts` inside new namespaces, as `python init.py NAME FOLDER TMP`. FOLDER holds what looks
different in each host; TMP becomes a private temporary folder. Says `up` when it is done.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)  # noqa: S607 - the system's own


def main() -> None:
    name, folder, temporary = sys.argv[1:]
    mount("--make-rprivate", "/")
    mount("-t", "proc", "proc", "/proc")
    socket.sethostname(name)
    mount("-t", "tmpfs", "-o", "mode=1777,size=6g", "tmpfs", "/dev/shm")  # noqa: S108 - it is made here
    mount("-t", "tmpfs", "-o", "mode=1777,size=256m", "tmpfs", temporary)
    mount("--bind", f"{folder}/hosts", "/etc/hosts")
    mount("--bind", f"{folder}/{name}.boot_id", "/proc/sys/kernel/random/boot_id")
    os.chdir(Path(folder).parent)
    sys.stdout.write("up\n")
    sys.stdout.flush()
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            signal.sigwait({signal.SIGCHLD})


signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
main()
