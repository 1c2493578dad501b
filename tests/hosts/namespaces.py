"""Several hosts on one machine, made of namespaces: what a job on several nodes looks like, without several nodes.

Each has its own hostname, address, network, process ids, /dev/shm, temporary folder and boot id; all other files are
shared, as on a cluster. They hang on a switch in a namespace of its own, so that nothing of the machine's network is
touched and several sets can exist at a time. Root only.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rhapsody.node.processes import die_with_parent
from tests.hosts.started import Started, child_of

if TYPE_CHECKING:
    from collections.abc import Sequence

NET = "10.77.0"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - each host has its own
_INIT = Path(__file__).with_name("init.py")


class Hosts:
    """So many hosts, named node0, node1, …; they end with this object, or with this process.

    Args:
        count: How many.
        folder: For their files; removed by whoever gave it.
        names: Theirs, instead.

    Attributes:
        names: Theirs.
        temporary: Path of the temporary folder, a different one in each.
    """

    def __init__(self, count: int, folder: Path, names: Sequence[str] = ()) -> None:
        self.names = list(names) or [f"node{number}" for number in range(count)]
        self.temporary = folder / "tmp"
        self._folder = folder
        self._switch: subprocess.Popen[str] | None = None
        self._machines: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Self:
        self.temporary.mkdir()
        lines = [f"{self.address(name)} {name}\n" for name in self.names]
        (self._folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
        try:
            self._switch = _namespaces(["--net"], ["sh", "-c", "echo up; exec sleep infinity"])
            self._ip("link", "add", "switch", "type", "bridge")
            self._ip("link", "set", "switch", "up")
            for name in self.names:
                self.boot(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        for name in list(self._machines):
            self.kill(name)
        if self._switch is not None:
            _end(self._switch)

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return f"{NET}.{1 + self.names.index(name)}"

    def boot(self, name: str) -> None:
        """Start a host; one that was killed comes back with another boot id."""
        (self._folder / f"{name}.boot_id").write_text(f"{uuid.uuid4()}\n")
        namespaces = ["--uts", "--net", "--mount", "--ipc", "--pid"]
        command = [sys.executable, "-I", str(_INIT), name, str(self._folder), str(self.temporary)]
        self._machines[name] = _namespaces(namespaces, command)
        pid = str(self._init(name))
        self._ip("link", "add", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", pid)
        self._ip("link", "set", f"to-{name}", "master", "switch", "up")
        self.run(name, ["ip", "addr", "add", f"{self.address(name)}/24", "dev", "eth0"])
        for device in ("lo", "eth0"):
            self.run(name, ["ip", "link", "set", device, "up"])
        # Nobody is there, but programs that look for their own address ask which way it would be.
        self.run(name, ["ip", "route", "add", "default", "via", f"{NET}.254"])

    def kill(self, name: str) -> None:
        """Lose a host at once: none of its processes can say goodbye, and its network is gone first."""
        if self._switch is not None:
            self._ip("link", "del", f"to-{name}")
        _end(self._machines.pop(name))

    def unplug(self, name: str) -> None:
        """Cut a host off the network."""
        if self._switch is not None:
            self._ip("link", "set", f"to-{name}", "down")

    def enter(self, name: str) -> list[str]:
        """Return the beginning of a command line that runs the rest inside a host, where this one is."""
        return ["nsenter", "-t", str(self._init(name)), "-u", "-n", "-m", "-i", "-p", f"-w{Path.cwd()}", "--"]

    def run(self, name: str, argv: Sequence[str]) -> str:
        """Run a command in a host to its end and return what it printed."""
        done = subprocess.run([*self.enter(name), *argv], capture_output=True, text=True, check=True)
        return done.stdout

    def start(self, name: str, argv: Sequence[str], env: dict[str, str], output: Path) -> Started:
        """Start a command in a host.

        Args:
            name: Of the host.
            argv: The command.
            env: Added to this environment.
            output: File for its stdout and stderr.
        """
        env = {"TMPDIR": str(self.temporary)} | env
        return Started([*self.enter(name), *argv], env, output, process=child_of)

    def processes(self, name: str) -> list[str]:
        """Return the command lines of a host's processes, without its first one."""
        listed = self.run(name, ["ps", "-eww", "-o", "pid=,stat=,args="]).splitlines()
        fields = [line.split(None, 2) for line in listed]
        return [args for pid, state, args in fields if pid != "1" and not args.startswith("ps -eww") and state != "Z"]

    def leftovers(self, name: str) -> list[str]:
        """Return what is in a host's /dev/shm and temporary folder."""
        return self.run(name, ["find", SHARED_MEMORY, str(self.temporary), "-mindepth", "1"]).splitlines()

    def _init(self, name: str) -> int:
        return child_of(self._machines[name].pid)

    def _ip(self, *arguments: str) -> None:
        assert self._switch is not None
        inside = ["nsenter", "-t", str(child_of(self._switch.pid)), "-n", "--"]
        subprocess.run([*inside, "ip", *arguments], check=True)


def _namespaces(which: Sequence[str], command: Sequence[str]) -> subprocess.Popen[str]:
    """Start a command in new namespaces and return when it says that it is up."""
    popen = subprocess.Popen(
        ["unshare", *which, "--fork", "--kill-child=KILL", "--", *command],  # noqa: S607 - the system's own
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=die_with_parent,  # noqa: PLW1509 - tests have one thread
    )
    assert popen.stdout is not None
    if popen.stdout.readline() != "up\n":
        popen.wait()
        raise RuntimeError("namespaces cannot be made; is this process root, with CAP_SYS_ADMIN?")
    return popen


def _end(popen: subprocess.Popen[str]) -> None:
    popen.kill()
    popen.wait()
    if popen.stdout is not None:
        popen.stdout.close()
