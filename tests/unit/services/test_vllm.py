"""How vLLM is started: command lines, environment, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from rhapsody import HttpProbe, Resources, ServiceTask, SpecError
from rhapsody.services.vllm_guard import Guard


def arguments_of(*args: Any, **options: Any) -> str:  # noqa: ANN401 - as ServiceTask.vllm takes them
    return " ".join(map(str, ServiceTask.vllm(*args, **options).arguments))


def test_one_replica_listens_where_it_was_placed_and_serves_the_model_by_its_name() -> None:
    service = ServiceTask.vllm("meta-llama/Llama-3.1-8B", python="/envs/vllm/bin/python")

    assert service.executable == "/envs/vllm/bin/python"
    assert arguments_of("meta-llama/Llama-3.1-8B").startswith(
        "-m vllm.entrypoints.cli.main serve meta-llama/Llama-3.1-8B --served-model-name meta-llama/Llama-3.1-8B"
        " --host {host} --port {port} --shutdown-timeout 60 --middleware rhapsody_vllm_guard.Guard"
    )
    assert (service.name, list(service.models)) == ("Llama-3.1-8B", ["meta-llama/Llama-3.1-8B"])


def test_key_is_made_for_each_service_and_is_in_no_argument_and_no_text() -> None:
    services = [ServiceTask.vllm("m") for _ in range(2)]

    keys = {service.secrets["VLLM_API_KEY"] for service in services}

    assert len(keys) == 2
    assert min(map(len, keys)) >= 32
    for service in services:
        told = [*map(str, service.arguments), *service.env.values(), repr(service)]
        assert not [text for text in told for key in keys if key in text]
        assert service.key == "VLLM_API_KEY"


def test_parallel_replica_gets_as_many_gpus() -> None:
    service = ServiceTask.vllm("m", tensor_parallel=4, pipeline_parallel=2)

    assert service.resources == Resources(cores_per_rank=8, gpus_per_rank=8)
    assert "--tensor-parallel-size 4 --pipeline-parallel-size 2" in " ".join(map(str, service.arguments))


def test_replica_over_nodes_is_spread_by_vllm_itself() -> None:
    service = ServiceTask.vllm("m", tensor_parallel=8, nodes=2)

    assert service.resources == Resources(ranks=2, ranks_per_node=1, cores_per_rank=4, gpus_per_rank=4)
    spread = "--nnodes {ranks} --node-rank {rank} --master-addr {leader_host} --master-port {leader_port}"
    assert spread in " ".join(map(str, service.arguments))
    assert list(service.extra_arguments) == ["--headless"]


def test_options_of_vllm_are_spelled_as_its_command_line_has_them() -> None:
    told = arguments_of("m", options={"max_model_len": 4096, "enforce-eager": True, "enable_prefix_caching": False})

    assert told.endswith("--max-model-len 4096 --enforce-eager --no-enable-prefix-caching")


def test_image_runs_its_own_python_and_sees_the_run_folder() -> None:
    service = ServiceTask.vllm("m", image="/images/vllm.sif", image_flags=["--nv"])

    assert service.executable == "apptainer"
    began = ["-q", "exec", "--nv", "--bind", "{run_dir}", "/images/vllm.sif", "python3", "-m"]
    assert list(service.arguments)[:8] == began


def test_it_is_ready_when_it_has_answered_one_token_or_vector() -> None:
    service, embedding = ServiceTask.vllm("m"), ServiceTask.vllm("e", embeds=True)

    assert service.readiness == HttpProbe(
        "/v1/completions", body={"model": "m", "prompt": "ready?", "max_tokens": 1}, key="VLLM_API_KEY"
    )
    assert embedding.readiness.path == "/v1/embeddings"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"options": {"api_key": "x"}}, r"options\['api_key'\] is said otherwise: by nothing: a key is made"),
        ({"options": {"tensor-parallel-size": 2}}, "tensor_parallel="),
        ({"python": "p", "image": "i"}, "not both"),
        ({"tensor_parallel": 3, "nodes": 2}, "3 GPUs do not spread evenly over nodes=2"),
        ({"nodes": 0}, "nodes=0 must be a whole number from 1"),
        ({"replicas": 0}, "replicas=0"),
    ],
)
def test_what_contradicts_itself_is_refused(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError, match=text):
        ServiceTask.vllm("m", **options)


@pytest.mark.parametrize(
    ("path", "shown", "status"),
    [
        ("/v1/models", b"Bearer right", 200),
        ("/v1/models", b"Bearer wrong", 401),
        ("/invocations", b"", 401),
        ("/metrics", b"", 401),
        ("/health", b"", 200),
    ],
)
async def test_guard_lets_in_who_knows_the_key_whatever_the_path(
    path: str, shown: bytes, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "right")
    sent: list[dict[str, Any]] = []

    async def app(scope: object, receive: object, send: Any) -> None:  # noqa: ANN401 - of ASGI
        await send({"type": "http.response.start", "status": 200})

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"authorization", shown)] if shown else []
    await Guard(app)({"type": "http", "path": path, "headers": headers}, None, send)

    assert sent[0]["status"] == status
