"""What runtimes with pools share: persistent workers on each node for functions, executables and MPI launchers."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.backends import mpi, mpi_function, salvage
from rhapsody.backends.member import Chunk, Lane
from rhapsody.backends.node_pools import NodePools
from rhapsody.backends.packing import Packer, dump_function, pickle_arguments, unpackable, value_of
from rhapsody.errors import SpecError
from rhapsody.model.arguments import find_tasks, replace_tasks
from rhapsody.model.array import ArrayTask
from rhapsody.model.task import ComputeTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rhapsody.abc import Aftermath, Assignment, Listener, Report, RunContext
    from rhapsody.backends.node_pools import Runtime
    from rhapsody.model.allocation import Node
    from rhapsody.model.resources import Placement, Slot
    from rhapsody.model.task import Task

GPU_VARIABLES = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "ROCR_VISIBLE_DEVICES", "intel": "ZE_AFFINITY_MASK"}
"""What makes GPUs visible. Source: CUDA, ROCm and Level Zero documentation, checked 2026-11."""
GRACE_S = 5.0


class PoolBackend(ABC):
    """Runs everything by the workers of pools, one on each node; see `rhapsody.abc.Backend`."""

    name: str

    def __init__(self) -> None:
        self._pools: NodePools
        self._packer: Packer
        self._listener: Listener
        self._context: RunContext
        self._lanes: dict[tuple[int, int, tuple[int, ...], bool], Lane] = {}
        self._nodes: Sequence[Node] = ()
        self._started = False

    async def recover(self, run_dir: Path, session: int) -> Aftermath:
        """Clear away what a session that died has left; see `Backend.recover`."""
        return await salvage.recover(run_dir, session)

    async def start(self, context: RunContext, listener: Listener) -> None:
        """Start what starts workers, on every node; see `Backend.start`."""
        self._context, self._listener = context, listener
        self._nodes = context.allocation.nodes
        self._pools = NodePools(self._runtime(), context, listener)
        self._packer = Packer(self._pools.define, self._pools.forget, context.logs, GRACE_S)
        await self._pools.start()
        self._started = True

    @abstractmethod
    def _runtime(self) -> Runtime:
        """Return how workers are started; called when the context is known."""

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
            rank = assignment.placement.slots[0].node
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
                self._pools.feed(rank, lane, chunk)
        if refused:
            asyncio.get_running_loop().call_soon(self._listener.hear, refused)

    def cancel(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Stop attempts; see `Backend.cancel`."""
        self._pools.cancel(attempts)

    def warn(self, attempts: Sequence[tuple[int, int]]) -> None:
        """Send SIGUSR1 to executables; see `Backend.warn`."""
        self._pools.warn(attempts)

    async def aclose(self) -> None:
        """End every worker; see `Backend.aclose`."""
        if self._started:
            await self._pools.aclose()

    def _lane_of(self, placement: Placement) -> tuple[Lane, list[int] | None]:
        """Return the lane of a placement's first slot, and the CPUs to bind to where the lane's own do not do."""
        slots = placement.slots
        first = slots[0]
        key = (first.node, first.cores[0], first.gpus, placement.shared)
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = self._make_lane(*key)
        if len(slots) == 1 and len(first.cores) == 1 and not first.gpus:
            return lane, None
        node = self._nodes[first.node]
        return lane, sorted({node.cpu_of(core) for slot in slots if slot.node == first.node for core in slot.cores})

    def _make_lane(self, rank: int, core: int, gpus: tuple[int, ...], shared: bool) -> Lane:  # noqa: FBT001 - of a key
        node = self._nodes[rank]
        env: tuple[tuple[str, str], ...] = ()
        if node.shape.gpus:
            env = ((GPU_VARIABLES[node.shape.gpu_vendor], ",".join(map(str, gpus))),)
        layer = "shared-" if shared else ""
        if gpus:
            return Lane(f"{layer}gpu-{'-'.join(map(str, gpus))}", (), env)
        return Lane(f"{layer}core-{core}", (node.cpu_of(core),), env)

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
        if task.resources.is_mpi:
            return self._mpi_chunk(task, assignment.placement, extra)
        extra["argv"] = [str(task.executable), *self._words_of(task)]
        return self._lone(task, extra)

    @staticmethod
    def _lone(task: ComputeTask, extra: dict[str, Any]) -> Chunk:
        return Chunk.of([task.number], [task.attempt], [-1], [()], [extra])

    @staticmethod
    def _words_of(task: ComputeTask) -> list[str]:
        return [str(replace_tasks(item, value_of)) for item in task.arguments]

    def _mpi_chunk(self, task: ComputeTask, placement: Placement, extra: dict[str, Any]) -> Chunk:
        """Return the launcher of an MPI task, run by the worker of its first rank."""
        found = mpi.launcher()
        slots = [self._rank_slot(slot) for slot in placement.slots]
        run = f"{task.number}.{task.attempt}"
        folder = Path(self._pools[placement.slots[0].node].folder, run)  # its worker makes and removes it
        several = mpi.spans(slots)
        if several:
            extra["shared"] = str(self._pools.shared / run)
        if task.executable is not None:
            program = [task.executable, *self._words_of(task)]
        else:
            program = mpi_function.program(extra.get("shared", str(folder)))
            extra |= {"payload": self._payload_of(task), "ranks": task.resources.ranks}
        shape = self._nodes[placement.slots[0].node].shape
        variable = GPU_VARIABLES[shape.gpu_vendor] if shape.gpus else ""
        env = extra.get("env", {})
        ssh = mpi.ssh_of_job(os.environ.get("PATH", os.defpath)) if several else ""
        sharing = placement.shared or self._context.allocation.oversubscribed
        return self._lone(
            task,
            extra
            | {
                "argv": mpi.command(found, program, slots, variable),
                "env": {**mpi.environment(found, folder, yielding=sharing, ssh=ssh, task=env), **env},
                "folder": str(folder),
                "passes_warnings_on": True,
            },
        )

    def _rank_slot(self, slot: Slot) -> mpi.RankSlot:
        node = self._nodes[slot.node]
        return mpi.RankSlot(node.name, [node.cpu_of(core) for core in slot.cores], ",".join(map(str, slot.gpus)))

    def _payload_of(self, task: ComputeTask) -> bytes:
        return pickle.dumps(
            {
                "function": dump_function(task.function),
                "arguments": pickle_arguments(task),
                "sys_path": self._pools.sys_path,
                "campaign_file": self._pools.campaign_file,
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
