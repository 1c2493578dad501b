"""One run of Dragon's front end, as its warden sees it: started, watched, and ended with all that it leaves.

On one host Dragon is one process, the front end, whose children are the head program and the workers. Over several
hosts it has each warden start a back end. All is ended by SIGKILL: its own way takes two seconds, eight over several
hosts, after an error leaves shared memory behind, too, and on SIGTERM hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rhapsody.backends import bootstrap, shared_memory
from rhapsody.backends.dragon.hand import write_ssh
from rhapsody.backends.dragon.hosts import OTHERS, DragonHost, network_configuration
from rhapsody.backends.keeper import say
from rhapsody.node.processes import descendants, die_with_parent, end_children

if TYPE_CHECKING:
    from rhapsody.backends.dragon.plan import Plan

PREFIX = "DD"
"""How Dragon's files in /dev/shm begin. Source: dragonhpc 0.15.0, `facts.runtime_pool_name`."""
_DRAGON = "import sys; sys.argv[0] = 'dragon'; from dragon.launcher.launch_selector import main; sys.exit(main())"
"""What the command `dragon` does, which need not be on PATH."""
_PATCHES = str(Path(__file__).with_name("patches"))
_UNQUOTED = set(" \t\n;&|<>()$`'\"")
"""Dragon writes PATH into the command lines for other hosts as it is: what has these in it is left out."""
_LAST_LINES = 12
_LINE_CHARACTERS = 200
_TAIL_BYTES = 1 << 14
# Source: dragonhpc 0.15.0, strace: the front end calls `sh -c "dragon-config --get=…"` for each of these.
_ASKED_FOR = [f"{vendor}_runtime_{what}" for vendor in ("cuda", "hip", "ze") for what in ("libname", "lib")]


class FrontEnd:
    """A run of Dragon.

    Args:
        folder: The pool's private folder.
        plan: How to run it.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self._plan = plan
        self._log_begin = 0
        self._segments: set[shared_memory.Segment] = set()
        self.pid = 0
        """Its process id; 0 while it was not started, and once it was buried."""

    def start(self) -> None:
        """Start it.

        Raises:
            OSError: There is no room or no right to.
        """
        programs = self._folder / "bin"
        write_config_program(programs)
        path = f"{programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        environment = {**os.environ, **self._plan.env, "PATH": path}
        arguments = [sys.executable, "-c", _DRAGON, *self._ways(environment)]
        arguments += bootstrap.command("rhapsody-head", "rhapsody.backends.dragon.head", str(self._folder))
        log = os.open(self._plan.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._log_begin = os.fstat(log).st_size
            warden = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                self._become(arguments, environment, log, warden)
        finally:
            os.close(log)

    def _ways(self, environment: dict[str, str]) -> list[str]:
        """Return the options of one host or several; what the latter need is made, and put into the environment."""
        hosts = [DragonHost(*host) for host in self._plan.hosts]  # type: ignore[arg-type]
        if not hosts:
            return ["-s"]
        write_ssh(self._folder, hosts, self._plan.ssh)
        network = self._folder / "network.json"
        network.write_bytes(network_configuration(hosts))
        (self._folder / OTHERS).write_text(json.dumps([(host.name, host.folder) for host in hosts[1:]]))
        path = [*environment["PATH"].split(os.pathsep), str(Path(sys.executable).parent)]
        environment["PATH"] = os.pathsep.join(entry for entry in path if entry and not set(entry) & _UNQUOTED)
        environment["PYTHONPATH"] = os.pathsep.join([_PATCHES, *filter(None, [environment.get("PYTHONPATH")])])
        way = ["-w", "ssh", "-t", "tcp", "-p", str(self._plan.port)]
        return [*way, "--network-config", str(network), "--network-prefix", hosts[0].prefix]

    def _become(self, arguments: list[str], environment: dict[str, str], log: int, warden: int) -> NoReturn:
        try:
            die_with_parent()
            if os.getppid() != warden:
                os._exit(1)
            give_back_descriptors()
            os.chdir(self._folder)  # whatever Dragon writes where it stands goes with the folder
            nothing = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((nothing, 0), (log, 1), (log, 2)):
                os.dup2(source, target)
            os.execve(arguments[0], arguments, environment)  # noqa: S606 - our own interpreter
        except BaseException:  # noqa: BLE001 - the last frame of a forked process: nothing may return into the warden
            sys.excepthook(*sys.exc_info())
        os._exit(1)

    def exit_code(self) -> int | None:
        """Return how it ended; None while it runs."""
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if done == 0:
            return None
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def note_shared_memory(self) -> None:
        """Write down what it and its children, ours once it is dead, have in /dev/shm by now."""
        pids = descendants(os.getpid()) - {os.getpid()}
        found = shared_memory.segments_of(pids, PREFIX)
        if not found <= self._segments:
            self._segments |= found
            try:
                shared_memory.note(self._folder, self._segments)
            except OSError as exc:
                say(f"what Dragon has in {shared_memory.FOLDER} could not be noted: {exc}")

    def end(self) -> None:
        """End it, whatever it started, and whatever that started; then free its shared memory."""
        self.note_shared_memory()
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
        end_children()
        shared_memory.sweep(self._folder)

    def last_words(self) -> str:
        """Return the last lines that it wrote."""
        with Path(self._plan.log).open("a+b") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_begin, size - _TAIL_BYTES))
            lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        said = "\n".join(f"  {line[:_LINE_CHARACTERS]}" for line in lines[-_LAST_LINES:])
        return (
            f"the last that it wrote to {self._plan.log}:\n{said}" if said else f"it wrote nothing ({self._plan.log})"
        )


_descriptors_before = resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def allow_many_descriptors() -> None:
    """Let this process, but not what Dragon starts, hold what hundreds of workers need: four each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def give_back_descriptors() -> None:
    """Limit this process to the open files that it could have before."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_descriptors_before, most))


def write_config_program(folder: Path) -> None:
    """Make a `dragon-config` in a folder that answers at once what the front end asks when it starts.

    Dragon's own starts a Python each time: four of the five seconds that 0.15.0 needs to start on two cores.
    """
    package = find_spec("dragon")
    places = list(package.submodule_search_locations or ()) if package is not None else []
    configured: dict[str, object] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):  # nothing is configured, which is usual
        configured = json.loads(Path(places[0], ".hsta-config", "dragon-config.json").read_text())
    cases = [f"--get={key}) echo {shlex.quote(str(configured.get(key, '')))} ;;" for key in _ASKED_FOR]
    real = shlex.join([sys.executable, "-c", "from dragon.infrastructure.config import main; main()"])
    folder.mkdir(exist_ok=True)
    program = folder / "dragon-config"
    program.write_text("\n".join(["#!/bin/sh", 'case "$*" in', *cases, f'*) exec {real} "$@" ;;', "esac", ""]))
    program.chmod(0o700)
