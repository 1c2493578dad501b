"""Makes the starts of a service's replicas: a folder, a specification and a task for each."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends.campaign_module import FILE_VARIABLE, import_path
from rhapsody.backends.packing import dump_function
from rhapsody.errors import SpecError
from rhapsody.model.service import ReplicaTask
from rhapsody.node.files import write_whole
from rhapsody.services.probes import authority
from rhapsody.services.record import FOLDER
from rhapsody.services.states import Address

if TYPE_CHECKING:
    from rhapsody.services.ground import Ground
    from rhapsody.services.service import ServiceTask

_FILES = "files"


class Kit:
    """What all starts of one service share.

    Args:
        service: Which.
        ground: The session.

    Attributes:
        state_folder: What a service writes there stays: for its next start, and for a resumed run.

    Raises:
        SpecError: The function cannot be sent to another process, or the run folder not be written.
    """

    def __init__(self, service: ServiceTask, ground: Ground) -> None:
        self._service = service
        self._ground = ground
        self._folder = ground.run_dir.absolute() / FOLDER / service.name
        self.state_folder = self._folder.with_name(f"{service.name}.state")
        try:
            for folder in (self._folder, self.state_folder):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._secrets = self._write("secrets.json", json.dumps(dict(service.secrets)).encode())
            self._argv = self._command()
            self._place_files()
        except OSError as exc:
            raise SpecError(f"service {service.name}: cannot write {self._folder}: {exc.strerror}") from exc

    def _write(self, name: str, content: bytes) -> str:
        write_whole(self._folder / name, content)
        return str(self._folder / name)

    def _command(self) -> list[str]:
        service = self._service
        if service.executable is not None:
            return [str(service.executable), *map(str, service.arguments)]
        try:
            body = dump_function((service.function, tuple(service.args), dict(service.kwargs)))
        except Exception as exc:  # the user's __reduce__ may raise anything
            why = f"{type(exc).__name__}: {exc}"
            raise SpecError(f"service {service.name}: its function or arguments cannot be sent: {why}") from exc
        head = {"sys_path": import_path(), "campaign_file": os.environ.get(FILE_VARIABLE, "")}
        file = self._write("function.pickle", pickle.dumps((head, body)))
        return [sys.executable, "-m", "rhapsody.services.callable_service", file]

    def _place_files(self) -> None:
        folder = self._folder / _FILES
        shutil.rmtree(folder, ignore_errors=True)  # of a session that died
        folder.mkdir(mode=0o700)
        for name, content in self._service.files.items():
            if isinstance(content, bytes):
                write_whole(folder / name, content)
            else:
                (folder / name).symlink_to(Path(content).absolute())

    def make(self, number: int, start: int) -> ReplicaTask:
        """Return the task of one start of one replica."""
        service = self._service
        folder = self._start_folder(number, start)
        shutil.rmtree(folder, ignore_errors=True)  # of a session that died
        folder.mkdir(mode=0o700)
        spec = {
            "folder": str(folder),
            "state_dir": str(self.state_folder),
            "files": str(self._folder / _FILES),
            "run_dir": str(self._ground.run_dir.absolute()),
            "argv": self._argv,
            "extra_arguments": [str(each) for each in service.extra_arguments],
            "env": dict(service.env),
            "secrets": self._secrets if service.secrets else "",
            "listens": service.listens,
            "port": service.port,
            "replica": number,
            "session_at": list(self._ground.session_at),
            "ready_within_s": service.ready_within_s,
        }
        write_whole(folder / "spec.json", json.dumps(spec).encode())
        return ReplicaTask(
            service.name,
            number,
            start,
            executable=sys.executable,
            arguments=("-m", "rhapsody.services.launcher", str(folder / "spec.json")),
            resources=service.resources,
            cwd=service.cwd,
            priority=service.priority,
            policy=service.policy,
            capture_stdio=True,
        )

    def address(self, task: ReplicaTask, number: int, start: int) -> Address | None:
        """Return where the first rank of a start is; None while any of its ranks has not said so."""
        folder = self._start_folder(number, start)
        if not all((folder / f"rank-{rank}.json").exists() for rank in range(self._service.resources.ranks)):
            return None
        uid = f"{self._service.name}.{number}.{start}"
        return _read_address(folder / "rank-0.json", uid, self._ground.node_of(task), self._service)

    def logs(self, number: int, start: int) -> tuple[Path, Path]:
        """Return the files that a start writes standard output and standard error to."""
        stem = f"service.{self._service.name}.{number}.{start}.1"
        return self._ground.logs / f"{stem}.out", self._ground.logs / f"{stem}.err"

    def clear(self, number: int, start: int) -> None:
        """Remove what only the processes of a start needed; its log stays."""
        shutil.rmtree(self._start_folder(number, start), ignore_errors=True)

    def close(self) -> None:
        """Remove secrets and all else that nobody needs any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_folder(self, number: int, start: int) -> Path:
        return self._folder / f"{number}.{start}"


def _read_address(path: Path, uid: str, node: str, service: ServiceTask) -> Address | None:
    """Return where a replica is, from what its launcher has written; None while it has not."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    host, port = found["host"], found["port"]
    return Address(uid, node, host, port, f"{service.scheme}://{authority(host, port)}{service.path}" if port else "")
