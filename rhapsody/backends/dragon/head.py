"""The head program: runs inside Dragon, has it start workers, and learns of their ends.

It does nothing by itself. The warden, outside of Dragon, sees workers die at once; the head asks Dragon for the exit
code then. So nothing waits inside Dragon, whose waits spin.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dragon
from dragon.globalservices import process as global_services
from dragon.infrastructure.parameters import this_process
from dragon.infrastructure.policy import Policy
from dragon.infrastructure.process_desc import ProcessOptions
from dragon.native.machine import Node, System
from dragon.native.process import Process

from rhapsody.backends import bootstrap
from rhapsody.backends.dragon import link
from rhapsody.backends.dragon.hosts import OTHERS

if TYPE_CHECKING:
    from rhapsody.backends.dragon.link import Welcome

REAP_LIMIT_S = 10.0
_LOOK_S = 0.25
"""Seconds between two looks at processes that have not greeted the warden yet."""


class Head:
    """Carries out the warden's orders.

    Args:
        folder: The pool's private folder.
        warden: Connection to it.
        welcome: What it said.
        policy: Where workers are started; None where there is one host.
    """

    def __init__(self, folder: Path, warden: socket.socket, welcome: Welcome, policy: Policy | None) -> None:
        self._folder = folder
        self._warden = warden
        self._welcome = welcome
        self._policy = policy
        self._workers: dict[int, Process] = {}
        self._unseen: set[int] = set()
        """Workers that have not greeted the warden: it cannot see them die."""

    def serve(self) -> None:
        """Do as told until the warden is gone."""
        link.send(self._warden, "up", str(dragon.__version__))
        while True:
            ready, _, _ = select.select([self._warden], [], [], _LOOK_S if self._unseen else None)
            if not ready:
                self._look()
                continue
            message = link.receive(self._warden)
            if message is None:
                return
            order, *rest = message
            if order == "beat":
                global_services.query(this_process.my_puid)
                link.send(self._warden, "beat")
            else:
                self._obey(order, *rest)

    def _obey(self, order: str, worker_id: int) -> None:
        if order == "start":
            self._start(worker_id)
        elif order == "seen":
            self._unseen.discard(worker_id)
        elif order == "kill" and worker_id in self._workers:
            self._workers[worker_id].kill()
        elif order == "reap":
            self._reap(worker_id)

    def _start(self, worker_id: int) -> None:
        title, module = "rhapsody-worker", "rhapsody.backends.dragon.worker"
        program, *arguments = bootstrap.command(title, module, str(self._folder), str(worker_id))
        process = Process(
            target=program,
            args=arguments,
            cwd=str(self._folder),
            stdin=Process.DEVNULL,
            stdout=self._welcome.log,
            stderr=Process.STDOUT,
            options=ProcessOptions(make_inf_channels=True),  # else tasks cannot make Dragon's own objects
            policy=self._policy,
        )
        try:
            process.start()
        except Exception as exc:  # noqa: BLE001 - whatever Dragon raises: the pool decides what a failed start means
            print(f"worker {worker_id} was not started: {type(exc).__name__}: {exc}", flush=True)  # noqa: T201 - its log
            link.send(self._warden, "exit", worker_id, 1)
            return
        self._workers[worker_id] = process
        self._unseen.add(worker_id)

    def _look(self) -> None:
        for worker_id in list(self._unseen):
            if not self._workers[worker_id].is_alive:
                self._reap(worker_id)

    def _reap(self, worker_id: int) -> None:
        process = self._workers.pop(worker_id, None)
        self._unseen.discard(worker_id)
        if process is not None:
            process.join(timeout=REAP_LIMIT_S)
            code = process.returncode
            link.send(self._warden, "exit", worker_id, 1 if code is None else int(code))


def main(folder: str, name: str = "") -> None:
    """Run until the warden is gone.

    Over several hosts there is a head on each, which has workers started there; the first one starts the others.

    Args:
        folder: The pool's private folder.
        name: How Dragon knows this host; empty for the first one, or the only one.
    """
    others = Path(folder, OTHERS)
    if not name and others.exists():
        found = {Node(number).hostname: number for number in System().nodes}
        name = socket.gethostname()
        for host, place in json.loads(others.read_text()):
            if host not in found:  # asking for it would end Dragon as a whole
                sys.exit(f"Dragon has no host {host!r}, it has {', '.join(found)}")
            _start_head(host, place)
    with contextlib.suppress(ConnectionError):  # the warden is gone, or has given this Dragon up: so its end is near
        warden, welcome, _ = link.greet(Path(folder), link.HEAD)
        sys.path[:] = welcome.sys_path
        Head(Path(folder), warden, welcome, _policy_for(name) if name else None).serve()


def _policy_for(host: str) -> Policy:
    return Policy(placement=Policy.Placement.HOST_NAME, host_name=host)


def _start_head(host: str, folder: str) -> None:
    program, *arguments = bootstrap.command("rhapsody-head", "rhapsody.backends.dragon.head", folder, host)
    process = Process(
        target=program,
        args=arguments,
        cwd=folder,
        stdin=Process.DEVNULL,
        stdout=str(Path(folder, "head.log")),
        stderr=Process.STDOUT,
        options=ProcessOptions(make_inf_channels=True),
        policy=_policy_for(host),
    )
    process.start()
    _heads.append(process)


_heads: list[Process] = []
"""Those of other hosts: Dragon ends a process that nobody refers to."""
