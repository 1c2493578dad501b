"""What an AI worker tells Prometheus; written by hand, since not every interpreter with a model has its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rhapsody.inference.worker_thread import ModelThread

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "rhapsody_worker_"


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str
    value: float


def render_metrics(thread: ModelThread, model: str) -> str:
    """Return all figures in Prometheus' text format."""
    label = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = []
    for name, kind, text, value in _metrics(thread):
        full = f"{PREFIX}{name}"
        lines.append(f"# HELP {full} {text}")
        lines.append(f"# TYPE {full} {kind}")
        lines.append(f'{full}{{model_name="{label}"}} {value!r}')
    return "\n".join([*lines, ""])


def _metrics(thread: ModelThread) -> list[_Metric]:
    counts = thread.batches.counts
    return [
        _Metric("num_requests_running", "gauge", "Prompts that the model has in hand.", thread.running),
        _Metric("num_requests_waiting", "gauge", "Prompts that wait for it.", len(thread.queue)),
        _Metric("batches_total", "counter", "Calls of the model for batches.", counts.batches),
        _Metric("prompts_total", "counter", "Prompts that it has answered, and streams begun.", counts.prompts),
        _Metric("stream_parts_total", "counter", "Parts of streams.", counts.parts),
        _Metric("refused_total", "counter", "Prompts that were refused.", counts.refused),
        _Metric("failed_total", "counter", "Prompts that the model failed at.", counts.failed),
        _Metric("prompt_tokens_total", "counter", "Tokens read, as the model says.", counts.prompt_tokens),
        _Metric("generation_tokens_total", "counter", "Tokens made, as the model says.", counts.generated_tokens),
        _Metric("busy_seconds_total", "counter", "Time in the model's code.", counts.busy_s),
    ]
