"""What an AI worker tells Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.inference.exposition import Metric, render

if TYPE_CHECKING:
    from rhapsody.inference.worker_thread import ModelThread

PREFIX = "rhapsody_worker_"


def render_metrics(thread: ModelThread, model: str) -> str:
    """Return all figures in Prometheus' text format."""
    return render(_metrics(thread), PREFIX, model)


def _metrics(thread: ModelThread) -> list[Metric]:
    counts = thread.batches.counts
    return [
        Metric("num_requests_running", "gauge", "Prompts that the model has in hand.", thread.running),
        Metric("num_requests_waiting", "gauge", "Prompts that wait for it.", len(thread.queue)),
        Metric("batches_total", "counter", "Calls of the model for batches.", counts.batches),
        Metric("prompts_total", "counter", "Prompts that it has answered, and streams begun.", counts.prompts),
        Metric("stream_parts_total", "counter", "Parts of streams.", counts.parts),
        Metric("refused_total", "counter", "Prompts that were refused.", counts.refused),
        Metric("failed_total", "counter", "Prompts that the model failed at.", counts.failed),
        Metric("prompt_tokens_total", "counter", "Tokens read, as the model says.", counts.prompt_tokens),
        Metric("generation_tokens_total", "counter", "Tokens made, as the model says.", counts.generated_tokens),
        Metric("busy_seconds_total", "counter", "Time in the model's code.", counts.busy_s),
    ]
