"""Trainings as services that end: PyTorch's launcher on each node, which starts the script's processes.

Source of options and variables: docs.pytorch.org, "torchrun (Elastic Launch)", checked 2026-11 against PyTorch 2.13.
DeepSpeed's `init_distributed` takes rank, world and leader from the variables that this launcher sets (0.19); its own
launcher would need ssh between nodes. Source: deepspeedai/DeepSpeed issues 1603, 2679 and 2958.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.resources import Resources
from rhapsody.services.restart import Restart
from rhapsody.services.torch_start import CHECKPOINTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMPILED = {"TORCHINDUCTOR_CACHE_DIR": "{state_dir}/torchinductor"}
"""Else PyTorch keeps it in the node's temporary folder, where it stays."""
_STARTER = str(Path(__file__).with_name("torch_start.py"))
_OWN_CHECKPOINTS = "{state_dir}/checkpoints/{replica}"
_RESTART = Restart(limit=3, steady_s=math.inf)
"""One that fails at the same step each time is not to be tried for ever, however long it takes to that step."""
_SAID_OTHERWISE = {
    "arguments": "the script's arguments follow the script",
    "executable": "the interpreter is python=…",
    "function": "a training is a script",
    "listens": "a training does not listen",
    "ends": "a training does",
}


def describe(  # noqa: PLR0913 - one per thing that users choose, all but the script and its arguments by keyword
    script: str | Path,
    *arguments: object,
    name: str = "training",
    module: bool = False,
    modules: Sequence[str] = ("torch",),
    nodes: int | None = None,
    processes_per_node: int | str = 1,
    cores_per_process: int | None = None,
    gpus_per_node: int | None = None,
    resources: Resources | None = None,
    python: str | Path | None = None,
    checkpoints: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    **service: Any,  # noqa: ANN401 - what any ServiceTask takes
) -> dict[str, Any]:
    """Return the fields of the `ServiceTask`; `ServiceTask.torchrun` documents the arguments.

    Raises:
        SpecError: They contradict one another, or the script is not there.
    """
    _refuse(service)
    if not module:
        _require_script(script, service.get("cwd"))
    shape = {"nodes": nodes, "cores_per_process": cores_per_process, "gpus_per_node": gpus_per_node}
    if resources is None:
        resources = _resources(processes_per_node, **shape)
    elif given := [what for what, value in shape.items() if value is not None]:
        raise SpecError(f"ServiceTask.torchrun: give resources=… or {given[0]}=…, not both: they say the same")
    processes = _processes(processes_per_node, resources.gpus_per_rank)
    threads = max(1, resources.cores_per_rank // processes)
    launcher = [
        _STARTER,
        ",".join(modules),
        *_rendezvous(resources.ranks),
        "--local-addr",
        "{host}",
        "--log-dir",
        "{work_dir}",
    ]
    launcher += ["--nproc-per-node", str(processes), *(["--module"] if module else [])]
    folder = _checkpoints(checkpoints, service.get("replicas", 1))
    return {
        "name": name,
        "executable": str(python or sys.executable),
        "arguments": [*launcher, str(script), *arguments],
        "resources": resources,
        "env": {CHECKPOINTS: folder, "OMP_NUM_THREADS": str(threads), **COMPILED} | dict(env or {}),
        "listens": False,
        "ends": True,
        "restart": _RESTART,
        **service,
    }


def _refuse(service: Mapping[str, object]) -> None:
    for what, why in _SAID_OTHERWISE.items():
        if what in service:
            raise SpecError(f"ServiceTask.torchrun: {what}=… cannot be given: {why}")


def _require_script(script: str | Path, cwd: str | Path | None) -> None:
    path = Path(cwd or ".", script)
    if not path.is_file():
        raise SpecError(f"ServiceTask.torchrun: there is no script {path}; for the name of a module say module=True")


def _rendezvous(nodes: int) -> list[str]:
    """Return how the nodes find one another: at rank 0's address, as its launcher wrote it down; alone, not at all."""
    if nodes == 1:
        return ["--standalone"]
    leader = ["--master-addr", "{leader_host}", "--master-port", "{leader_port}"]
    return ["--nnodes", "{ranks}", "--node-rank", "{rank}", *leader]


def _resources(
    processes_per_node: int | str, *, nodes: int | None, cores_per_process: int | None, gpus_per_node: int | None
) -> Resources:
    """Return one rank per node, with the cores and GPUs of all its processes."""
    ranks = 1 if nodes is None else nodes
    gpus = 0 if gpus_per_node is None else gpus_per_node
    cores = 1 if cores_per_process is None else cores_per_process
    return Resources(
        ranks=ranks,
        ranks_per_node=None if ranks == 1 else 1,
        cores_per_rank=_processes(processes_per_node, gpus) * cores,
        gpus_per_rank=gpus,
    )


def _processes(processes_per_node: int | str, gpus: int) -> int:
    if processes_per_node == "gpus":
        if gpus < 1:
            raise SpecError('ServiceTask.torchrun: processes_per_node="gpus" needs to know how many: gpus_per_node=…')
        return gpus
    if type(processes_per_node) is not int or processes_per_node < 1:
        raise SpecError(
            f'ServiceTask.torchrun: processes_per_node={processes_per_node!r} must be a whole number from 1, or "gpus"'
        )
    return processes_per_node


def _checkpoints(folder: str | Path | None, replicas: object) -> str:
    """Return where one replica saves what it has learnt."""
    if folder is None:
        return _OWN_CHECKPOINTS
    if replicas != 1 and "{replica}" not in str(folder):
        raise SpecError(
            f"ServiceTask.torchrun: {replicas} trainings would overwrite each other's checkpoints in {folder}; add"
            " {replica} to the path"
        )
    return str(Path(folder).absolute())
