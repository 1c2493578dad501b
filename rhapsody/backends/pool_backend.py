"""What runtimes of one node share: a pool of persistent workers for functions, executables and MPI launchers."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends import mpi, mpi_function, salvage
from rhapsody.backends.campaign_module import FILE_VARIABLE
from rhapsody.backends.member import Chunk, Lane
from rhapsody.backends.packing import Packer, dump_function, pickle_arguments, unpackable, value_of
from rhapsody.backends.pool import Pool, PoolSettings
from rhapsody.errors import SpecError
from rhapsody.model.arguments import find_tasks, replace_tasks
from rhapsody.model.array import ArrayTask
from rhapsody.model.task import ComputeTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import Aftermath, Assignment, Listener, Report, RunContext
    from rhapsody.backends.starter import KeeperStarter
    from rhapsody.model.allocation import Node
    from rhapsody.model.resources import Placement
    from rhapsody.model.task import Task

GPU_VARIABLES = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES", "intel": "ZE_AFFINITY_MASK"}
"""What makes GPUs visible. Source: CUDA, ROCm and Level Zero documentation, checked 2026-11."""
GRACE_S = 5.0


class PoolBackend(ABC):
    """Runs everything on this node by the workers of a pool; see `rhapsody.abc.Backend`."""

    name: str

    def __init__(self) -> None:
        self._pool: Pool
        self._packer: Packer
        self._listener: Listener
        self._context: RunContext
        self._node: Node
        self._lanes: dict[tuple[int, tuple[int, ...], bool], Lane] = {}
        self._sys_path: tuple[str, ...] = ()
        self._campaign_file = ""
        self._started = False

    async def recover(self, run_dir: Path, session: int) -> Aftermath:
        """Clear away what a session that died has left; see `Backend.recover`."""
        return await salvage.recover(run_dir, session)

    async def start(self, context: RunContext, listener: Listener) -> None:
        """Start what starts workers; see `Backend.start`."""
        if len(context.allocation.nodes) > 1:
            raise SpecError(
                f"the {self.name} backend runs on one node, the allocation has {len(context.allocation.nodes)};"
                " declare one node, or choose a backend that spans nodes"
            )
        self._context, self._listener, self._node = context, listener, context.allocation.nodes[0]
        self._sys_path = _absolute_path()
        self._campaign_file = os.environ.get(FILE_VARIABLE, "")
        logs = context.logs
        settings = PoolSettings(
            node=self._node.name,
            log=logs / f"workers-{self._node.name}.log",
            clock_offset_ns=context.clock_offset_ns,
            env=context.env,
            cwd=str(Path.cwd()),
            sys_path=self._sys_path,
            campaign_file=self._campaign_file,
        )
        starter = self._make_starter(salvage.left_path(context.run_dir, context.session, self._node.name))
        self._pool = Pool(starter, settings, listener.hear, listener.broken)
        self._packer = Packer(self._pool.define, self._pool.forget, logs, GRACE_S)
        await self._pool.start()
        self._started = True
        try:
            deployed = salvage.Deployed.here(starter.keeper, self._pool.folder, starter.mark)
            salvage.write_record(salvage.record_path(context.run_dir, context.session), deployed)
        except BaseException:  # cancellation too: no process may stay that is not on record
            await self._pool.aclose()
            raise

    @abstractmethod
    def _make_starter(self, left: Path) -> KeeperStarter:
        """Return what starts the pool's workers.

        Args:
            left: File for what they have noted, should the session die.
        """

    def check(self, task: Task) -> None:
        """Refuse executables that do not exist and MPI without a launcher; see `Backend.check`."""
        if task.resources.is_mpi:
            mpi.launcher()
        if not isinstance(task, ComputeTask):
            return
        cwd, name = task.options.cwd, task.executable
        if cwd and not Path(cwd).is_dir() and not _may_be_made_by_others(task):
            raise SpecError(f"task {task.uid}: cwd={cwd!r} is no folder; make it first")
        if name is not None and not ("/" in name and _may_be_made_by_others(task)):
            _require_executable(task, name)

    def launch(self, batch: Sequence[Assignment]) -> None:
        """Feed the lanes of the pool; see `Backend.launch`."""
        refused: list[Report] = []
        for assignment in batch:
            task = assignment.tasks[0]
            lane, cpus = self._lane_of(assignment.placement)
            if (
                assignment.items is None
                and type(task) is ComputeTask
                and task.executable is None
                and not task.resources.is_mpi
            ):
                chunk, problems = self._packer.pack(assignment.tasks, cpus)  # type: ignore[arg-type]
                refused += problems
            else:
                chunk = None
                try:
                    chunk = self._chunk_of(task, assignment, cpus)
                except BaseException as exc:  # noqa: BLE001 - the user's __reduce__ may raise anything, SystemExit too
                    refused.append(unpackable(task, exc, attempt=assignment.attempt, items=assignment.items))
            if chunk is not None:
                self._pool.feed(lane, chunk)
        if refused:
            asyncio.get_running_loop().call_soon(self._listener.hear, refused)

    def cancel(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Stop attempts; see `Backend.cancel`."""
        self._pool.cancel(attempts)

    def warn(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Send SIGUSR1 to executables; see `Backend.warn`."""
        self._pool.warn(attempts)

    async def aclose(self) -> None:
        """End every worker; see `Backend.aclose`."""
        if self._started:
            await self._pool.aclose()
            salvage.record_path(self._context.run_dir, self._context.session).unlink(missing_ok=True)

    def _lane_of(self, placement: Placement) -> tuple[Lane, list[int] | None]:
        """Return the lane of a placement's first slot, and the CPUs to bind to where the lane's own do not do."""
        slot = placement.slots[0]
        key = (slot.cores[0], slot.gpus, placement.shared)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._make_lane(*key)
        if len(placement.slots) == 1 and len(slot.cores) == 1 and not slot.gpus:
            return lane, None
        cpus = {self._node.cpu_of(core) for each in placement.slots for core in each.cores}
        return lane, sorted(cpus)

    def _make_lane(self, core: int, gpus: tuple[int, ...], shared: bool) -> Lane:  # noqa: FBT001 - part of a key
        env: tuple[tuple[str, str], ...] = ()
        if self._node.shape.gpus:
            env = ((self._gpu_variable, ",".join(map(str, gpus))),)
        layer = "shared-" if shared else ""
        if gpus:
            return Lane(f"{layer}gpu-{'-'.join(map(str, gpus))}", (), env)
        return Lane(f"{layer}core-{core}", (self._node.cpu_of(core),), env)

    @property
    def _gpu_variable(self) -> str:
        return GPU_VARIABLES[self._node.shape.gpu_vendor]

    def _chunk_of(self, task: Task, assignment: Assignment, cpus: list[int] | None) -> Chunk:
        """Return an array task's items, an executable or an MPI task as a chunk of its own."""
        if isinstance(task, ArrayTask):
            if assignment.items is None:
                raise TypeError("an array task is launched by ranges of items")
            return self._packer.pack_items(task, assignment.items, assignment.attempt, cpus)
        if not isinstance(task, ComputeTask):
            raise TypeError(f"the {self.name} backend cannot run a {type(task).__name__}")
        extra = self._packer.extra_of(task, cpus)
        extra["name"] = task.label
        if task.executable is not None:
            program = [task.executable, *(str(replace_tasks(item, value_of)) for item in task.arguments)]
        else:
            program = mpi_function.program(str(self._folder_of(task)))
            extra |= {"payload": self._payload_of(task), "ranks": task.resources.ranks}
        if task.resources.is_mpi:
            extra |= self._through_mpi(program, assignment.placement, extra.get("env", {}), self._folder_of(task))
        else:
            extra["argv"] = program
        return Chunk([task.number], [task.attempt], [-1], [()], [extra])

    def _folder_of(self, task: ComputeTask) -> Path:
        """Return the private folder of an MPI run; its worker makes and removes it."""
        return self._pool.folder / f"{task.number}.{task.attempt}"

    def _through_mpi(
        self, program: list[str], placement: Placement, env: dict[str, str], folder: Path
    ) -> dict[str, Any]:
        found = mpi.launcher()
        slots = [
            ([self._node.cpu_of(core) for core in slot.cores], ",".join(map(str, slot.gpus)))
            for slot in placement.slots
        ]
        variable = self._gpu_variable if self._node.shape.gpus else ""
        sharing = placement.shared or self._context.allocation.oversubscribed
        return {
            "argv": mpi.command(found, program, slots, variable),
            "env": {**mpi.environment(found, folder, yielding=sharing), **env},
            "folder": str(folder),
            "passes_warnings_on": True,
        }

    def _payload_of(self, task: ComputeTask) -> bytes:
        return pickle.dumps(
            {
                "function": dump_function(task.function),
                "arguments": pickle_arguments(task),
                "sys_path": self._sys_path,
                "campaign_file": self._campaign_file,
                "cwd": task.options.cwd,
            }
        )


def _may_be_made_by_others(task: ComputeTask) -> bool:
    """Return whether the task has dependencies, so that its files may come from them."""
    named = [*task.args, *task.arguments, *(task.kwargs or {}).values()]
    return bool(task.options.after) or any(True for value in named for _ in find_tasks(value))


def _require_executable(task: ComputeTask, name: str) -> None:
    options = task.options
    if "/" in name:
        path = Path(options.cwd or ".") / name
        found = path.is_file() and os.access(path, os.X_OK)
    else:
        found = shutil.which(name, path=(options.env or {}).get("PATH")) is not None
    if not found:
        where = f"{name!r} is no executable file" if "/" in name else f"{name!r} is not on PATH"
        raise SpecError(f"task {task.uid}: {where}; give its full path, or load the module that has it")


def _absolute_path() -> tuple[str, ...]:
    """Return the import path, so that it holds in another folder too."""
    return tuple(str(Path(entry or ".").resolve()) for entry in sys.path)
