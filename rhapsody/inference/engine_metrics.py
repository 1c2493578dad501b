"""What the stand-in engine tells Prometheus: vLLM's figures, under names that say what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rhapsody.inference.exposition import Metric, render

if TYPE_CHECKING:
    from rhapsody.inference.engine_pace import Pacer

PREFIX = "standin_"


def render_metrics(pacer: Pacer, model: str) -> str:
    """Return all figures in Prometheus' text format."""
    told = (each._replace(help=f"Stand-in, not measured: {each.help}") for each in _metrics(pacer))
    return render(told, PREFIX, model)


def _metrics(pacer: Pacer) -> list[Metric]:
    engine, counts = pacer.engine, pacer.counts
    return [
        Metric("num_requests_running", "gauge", "sequences with a place in the cache.", engine.running),
        Metric("num_requests_waiting", "gauge", "sequences that wait for one.", engine.waiting),
        Metric("kv_cache_usage", "gauge", "share of the cache in use, 0 to 1.", engine.kv_usage),
        Metric("prompt_tokens_total", "counter", "tokens of prompts read.", counts.prompt_tokens),
        Metric("generation_tokens_total", "counter", "tokens of answers made.", counts.generated_tokens),
        Metric("num_preemptions_total", "counter", "sequences that lost their place.", counts.preemptions),
        Metric("steps_total", "counter", "steps done.", counts.steps),
        Metric("busy_seconds_total", "counter", "time with a sequence in a step, as stated.", counts.busy_s),
        Metric("late_seconds_total", "counter", "time lost as this machine was too slow.", counts.late_s),
    ]
