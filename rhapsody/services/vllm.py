"""vLLM's OpenAI-compatible server as a service.

vLLM lives in an environment or an image of its own: what it needs does not go with the rest of a campaign. Source of
options and variables: docs.vllm.ai, "OpenAI-Compatible Server", "Parallelism and Scaling", "Environment Variables",
checked 2026-11 against vLLM 0.32.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rhapsody.errors import SpecError
from rhapsody.model.resources import Resources
from rhapsody.services.model_server import model_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KEY = "VLLM_API_KEY"
"""Where the server reads the key that its clients must show."""
_MODULE = "vllm.entrypoints.cli.main"
"""The command `vllm`: the older `openai.api_server` does not know `--headless`."""
_GUARD = "rhapsody_vllm_guard"
_KEY_BYTES = 32
_OWN_OPTIONS = {
    "model": "the first argument of ServiceTask.vllm",
    "served_model_name": "served_as=",
    "tensor_parallel_size": "tensor_parallel=",
    "pipeline_parallel_size": "pipeline_parallel=",
    "api_key": "nothing: a key is made for the run",
    "host": "nothing: the node's address is taken",
    "port": "port=",
    "nnodes": "nodes=",
    "node_rank": "nodes=",
    "master_addr": "nodes=",
    "master_port": "nodes=",
    "headless": "nodes=",
    "middleware": "nothing: what guards it is one",
}
"""What this says itself, and how users say it."""

_OWN_ENV = {
    "VLLM_CACHE_ROOT": "{state_dir}/cache",
    "TORCHINDUCTOR_CACHE_DIR": "{state_dir}/torchinductor",
    "VLLM_HOST_IP": "{host}",
    "PYTHONPATH": "{files}",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Said by users otherwise where they like."""


def describe(  # noqa: PLR0913 - one per thing that users choose, all but the first by keyword
    model: str,
    *,
    name: str | None = None,
    replicas: int = 1,
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
    nodes: int = 1,
    resources: Resources | None = None,
    python: str | Path | None = None,
    image: str | Path | None = None,
    image_flags: Sequence[str] = (),
    served_as: str | None = None,
    embeds: bool = False,
    options: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    ready_within_s: float = 1800.0,
    drain_s: float = 60.0,
    **service: Any,  # noqa: ANN401 - what any ServiceTask takes
) -> dict[str, Any]:
    """Return the fields of the `ServiceTask`; `ServiceTask.vllm` documents the arguments.

    Raises:
        SpecError: They contradict one another.
    """
    if not isinstance(model, str) or not model:
        raise SpecError(f"ServiceTask.vllm({model!r}): give the name of a model, or the folder that it lies in")
    if python is not None and image is not None:
        raise SpecError("ServiceTask.vllm: give python=… or image=…, not both: vLLM lives in one of them")
    served = served_as or model
    arguments = [*_in_image(image, image_flags), "-m", _MODULE, "serve", model, "--served-model-name", served]
    arguments += ["--host", "{host}", "--port", "{port}", "--shutdown-timeout", f"{drain_s:.0f}"]
    arguments += ["--middleware", f"{_GUARD}.Guard", "--disable-uvicorn-access-log"]
    for option, count in (("tensor-parallel-size", tensor_parallel), ("pipeline-parallel-size", pipeline_parallel)):
        if count != 1:
            arguments += [f"--{option}", str(count)]
    if nodes > 1:
        arguments += ["--nnodes", "{ranks}", "--node-rank", "{rank}"]
        arguments += ["--master-addr", "{leader_host}", "--master-port", "{leader_port}"]
    arguments += _spelled(options or {})
    return {
        **model_fields(served, name, KEY, secrets.token_hex(_KEY_BYTES), embeds=embeds),
        "executable": "apptainer" if image is not None else str(python or sys.executable),
        "arguments": arguments,
        "extra_arguments": ["--headless"] if nodes > 1 else [],
        "replicas": replicas,
        "resources": resources or _resources(tensor_parallel, pipeline_parallel, nodes),
        "env": _OWN_ENV | dict(env or {}),
        "files": {f"{_GUARD}.py": Path(__file__).with_name("vllm_guard.py").read_bytes()},
        "ready_within_s": ready_within_s,
        "drain_s": drain_s,
        **service,
    }


def _resources(tensor_parallel: int, pipeline_parallel: int, nodes: int) -> Resources:
    """Return one rank per node, with the GPUs that the model is spread over."""
    for what, count in (
        ("tensor_parallel", tensor_parallel),
        ("pipeline_parallel", pipeline_parallel),
        ("nodes", nodes),
    ):
        if type(count) is not int or count < 1:
            raise SpecError(f"ServiceTask.vllm: {what}={count!r} must be a whole number from 1")
    gpus, left = divmod(tensor_parallel * pipeline_parallel, nodes)
    if left:
        raise SpecError(
            f"ServiceTask.vllm: tensor_parallel x pipeline_parallel = {tensor_parallel * pipeline_parallel} GPUs do not"
            f" spread evenly over nodes={nodes}"
        )
    return Resources(ranks=nodes, ranks_per_node=1 if nodes > 1 else None, cores_per_rank=gpus, gpus_per_rank=gpus)


def _in_image(image: str | Path | None, flags: Sequence[str]) -> list[str]:
    """Return how Python is started in an image; its environment is that of the replica, secrets included."""
    if image is None:
        return []
    return ["-q", "exec", *flags, "--bind", "{run_dir}", str(image), "python3"]


def _spelled(options: Mapping[str, Any]) -> list[str]:
    """Return options as vLLM's command line has them: `max_model_len=4096` as `--max-model-len 4096`."""
    arguments: list[str] = []
    for name, value in options.items():
        plain = name.lstrip("-").replace("-", "_")
        if plain in _OWN_OPTIONS:
            raise SpecError(f"ServiceTask.vllm: options[{name!r}] is said otherwise: by {_OWN_OPTIONS[plain]}")
        option = f"--{plain.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is False:
            arguments.append(f"--no-{option[2:]}")
        elif value is not None:
            arguments += [option, *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return arguments
