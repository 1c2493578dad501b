"""A real Slurm over test hosts: a login node with controller, accounting and database, and compute nodes."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.slurm import config
from tests.slurm.config import LOGIN
from tests.slurm.daemons import Daemons, is_daemon

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.hosts.namespaces import Hosts
    from tests.hosts.started import Started

ACCOUNT = "research"
SOMEBODY = "games"
"""An ordinary user that every Debian has; beside root, ACCOUNT is theirs."""
COMMAND_S = 30.0


class JobState(NamedTuple):
    """A job as the controller knows it.

    Attributes:
        state: `PENDING`, `RUNNING`, `COMPLETED`, `FAILED`, …
        reason: Why it waits, or has failed.
        exit_code: Of the script.
        restarts: How often it went back to the queue.
        nodes: Their names, as Slurm shortens them.
    """

    state: str
    reason: str
    exit_code: int
    restarts: int
    nodes: str


class Cluster:
    """A cluster; it ends with this object, or with its hosts.

    Accounts: ACCOUNT, for root and SOMEBODY. Queues: `debug`, the default, up to an hour; `short`, up to two minutes;
    what does not fit is refused at once. QOS: `normal`, the default; `short`, up to two minutes. Each node says that it
    has `config.CORES` cores and `config.GPUS` GPUs, whatever the machine has.

    Args:
        hosts: `login` and the compute nodes.
        folder: For all of its files; removed by whoever gave it. Other users must be able to look into it.

    Attributes:
        environment: What commands need to find it.
        nodes: Names of the compute nodes.
    """

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts = hosts
        self.nodes = [name for name in hosts.names if name != LOGIN]
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        self._folder = folder
        self._daemons = Daemons(hosts, self.environment, folder / "log")

    def __enter__(self) -> Self:
        try:
            self._write()
            self._start_munge()
            self._start_database()
            self._daemons.start(LOGIN, ["slurmdbd", "-D"])
            self._daemons.until(lambda: self._answers("sacctmgr", "-n", "show", "cluster"), "slurmdbd answers")
            self._make_accounts()
            self._daemons.start(LOGIN, ["slurmctld", "-D"])
            for name in self.nodes:
                self._daemons.start(name, ["slurmd", "-D"])
            self._daemons.until(lambda: self.idle() == self.nodes, "all nodes are idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._daemons.end()

    # Using it

    def run(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = COMMAND_S,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the login node to its end, whatever its exit code.

        Args:
            argv: The command.
            user: Who does it; root, unless given.
            env: Added to this environment.
            timeout: So many seconds at most.
        """
        return subprocess.run(
            [*self.hosts.enter(LOGIN), *_as(user), *argv],
            env=os.environ | {"TMPDIR": str(self.hosts.temporary)} | self.environment | (env or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def start(self, argv: Sequence[str], output: Path, *, env: dict[str, str] | None = None) -> Started:
        """Start a command on the login node.

        Args:
            argv: The command.
            output: File for its stdout and stderr.
            env: Added to this environment.
        """
        return self.hosts.start(LOGIN, argv, self.environment | (env or {}), output)

    def job(self, job_id: str) -> JobState:
        """Return what has become of a job; the controller forgets it five minutes after its end."""
        done = self.run(["scontrol", "--oneliner", "show", "job", job_id])
        if done.returncode:
            raise AssertionError(f"scontrol knows no job {job_id}: {done.stderr}")
        said = dict(re.findall(r"(?:^| )(\w+)=(\S*)", done.stdout))
        return JobState(
            state=said["JobState"],
            reason=said["Reason"],
            exit_code=int(said["ExitCode"].partition(":")[0]),
            restarts=int(said["Restarts"]),
            nodes=said["NodeList"],
        )

    def accounted(self, job_id: str) -> list[str]:
        """Return state and exit code, like `FAILED 3:0`, of each start of a job; the accounting hears of them late."""
        columns = ["--allocations", "--duplicates", "--noheader", "--parsable2", "--format=State,ExitCode"]
        done = self.run(["sacct", f"--jobs={job_id}", *columns])
        return [line.replace("|", " ") for line in done.stdout.splitlines()]

    def idle(self) -> list[str]:
        """Return the names of the compute nodes that do nothing and can be used."""
        said = self.run(["sinfo", "--noheader", "--Node", "--partition=debug", "--format=%t %N"]).stdout
        states = [line.split() for line in said.splitlines()]
        return sorted(name for state, name in states if state == "idle")  # one that does not answer is `idle*`

    def cancel(self, job_id: str) -> None:
        """Cancel a job, if it has not ended, and return once all nodes that are there are idle."""
        self.run(["scancel", job_id])
        there = [name for name in self.nodes if self._daemons.runs(name, "slurmd")]
        self._daemons.until(lambda: self.idle() == there, f"job {job_id} is gone and {', '.join(there)} are idle")

    def kill(self, name: str) -> None:
        """Lose a node at once."""
        self.hosts.kill(name)
        self._daemons.lost(name)

    def revive(self, name: str) -> None:
        """Have a node back, if it was lost, and return once it can be used."""
        if self._daemons.runs(name, "slurmd"):
            return
        self.hosts.boot(name)
        self._daemons.start(name, ["slurmd", "-D"])
        self._daemons.until(lambda: self._resumed(name), f"{name} is idle again")

    def _resumed(self, name: str) -> bool:
        """Return whether a node is idle; while it is down, tell the controller that it may be used."""
        if name in self.idle():
            return True
        self.run(["scontrol", "update", f"nodename={name}", "state=resume"])
        return False

    def running(self) -> list[str]:
        """Return what runs on the hosts besides Slurm itself: `node1: sleep 600`."""
        return [
            f"{name}: {process}"
            for name in self.hosts.names
            for process in self.hosts.processes(name)
            if not is_daemon(process)
        ]

    def leftovers(self) -> list[str]:
        """Return what is in /dev/shm and the temporary folders of all hosts."""
        return [f"{name}: {entry}" for name in self.hosts.names for entry in self.hosts.leftovers(name)]

    # Starting it

    def _write(self) -> None:
        for name in ("munge", "db", "state", "spool", "run", "dev", "log"):
            (self._folder / name).mkdir()
        for number in range(config.GPUS):
            os.mknod(self._folder / f"dev/gpu{number}", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        (self._folder / "slurm.conf").write_text(config.slurm_conf(self._folder, self.nodes))
        (self._folder / "gres.conf").write_text(config.gres_conf(self._folder))
        for name, text in (("slurmdbd.conf", config.slurmdbd_conf(self._folder)), ("munge/key", os.urandom(128))):
            file = self._folder / name
            file.touch(mode=0o600)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())

    def _start_munge(self) -> None:
        """Start one for all hosts: they share its socket."""
        folder = self._folder / "munge"
        for entry in (folder, folder / "key"):
            shutil.chown(entry, "munge", "munge")
        folder.chmod(0o711)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={folder / file}" for option, file in files.items()]
        # It refuses folders below one that others may write to, as /tmp is, unless forced.
        self._daemons.start(LOGIN, ["munged", "--foreground", "--force", *options], run_by=_as("munge"))
        self._daemons.until((folder / "socket").exists, "munged listens")

    def _start_database(self) -> None:
        """Start one that forgets all when the machine does: it need not wait for the disk."""
        data = self._folder / "db/data"
        here = ["--no-defaults", "--user=root", f"--datadir={data}"]
        quick = ["--innodb-log-file-size=8M", "--innodb-flush-log-at-trx-commit=0", "--innodb-flush-method=nosync"]
        install = ["mariadb-install-db", *here, *quick, "--auth-root-authentication-method=socket", "--skip-test-db"]
        done = subprocess.run(install, capture_output=True, text=True, check=False, timeout=COMMAND_S)
        if done.returncode:
            raise RuntimeError(f"no database could be made: {done.stdout}{done.stderr}")
        socket, temporary = self._folder / "db/socket", self._folder / "db/tmp"
        temporary.mkdir()
        paths = [f"--socket={socket}", f"--pid-file={self._folder / 'db/pid'}", f"--tmpdir={temporary}"]
        options = [*here, *quick, *paths, "--bind-address=127.0.0.1", "--port=3306", "--innodb-buffer-pool-size=64M"]
        self._daemons.start(LOGIN, ["mariadbd", *options])
        client = ["mariadb", "--no-defaults", f"--socket={socket}"]
        self._daemons.until(lambda: self._answers(*client, "-e", "select 1"), "mariadbd answers")
        self._must(*client, "-e", config.DATABASE)

    def _make_accounts(self) -> None:
        """Make them before the controller starts: it reads them then, and hears of later ones some time after."""
        sacctmgr = ["sacctmgr", "--immediate", "--quiet", "add"]
        self._must(*sacctmgr, "cluster", config.CLUSTER)
        self._must(*sacctmgr, "account", ACCOUNT, f"cluster={config.CLUSTER}")
        self._must(*sacctmgr, "qos", "short", "MaxWall=00:02:00", "Flags=DenyOnLimit")
        whose = [f"account={ACCOUNT}", f"cluster={config.CLUSTER}", "qos=normal,short", "defaultqos=normal"]
        self._must(*sacctmgr, "user", f"root,{SOMEBODY}", *whose)

    def _answers(self, *argv: str) -> bool:
        return self.run(argv).returncode == 0

    def _must(self, *argv: str) -> None:
        done = self.run(argv)
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv[:4])} … ended with {done.returncode}: {done.stdout}{done.stderr}")


def _as(user: str | None) -> list[str]:
    """Return the beginning of a command line that runs the rest as a user."""
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--"]
