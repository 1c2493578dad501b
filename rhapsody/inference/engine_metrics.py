"""What the stand-in engine tells Prometheus: vLLM's figures, under names that say what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rhapsody.inference.engine_pace import Pacer

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "standin_"


class _Metric(NamedTuple):
    name: str
    kind: str
    help: str
    value: float


def render_metrics(pacer: Pacer, model: str) -> str:
    """Return all figures in Prometheus' text format."""
    label = model.replace("\\", "\\\\").replace('"', '\\"')
    lines = []
    for name, kind, text, value in _metrics(pacer):
        full = f"{PREFIX}{name}"
        lines.append(f"# HELP {full} Stand-in, not measured: {text}")
        lines.append(f"# TYPE {full} {kind}")
        lines.append(f'{full}{{model_name="{label}"}} {value!r}')
    return "\n".join([*lines, ""])


def _metrics(pacer: Pacer) -> list[_Metric]:
    engine, counts = pacer.engine, pacer.counts
    return [
        _Metric("num_requests_running", "gauge", "sequences with a place in the cache.", engine.running),
        _Metric("num_requests_waiting", "gauge", "sequences that wait for one.", engine.waiting),
        _Metric("kv_cache_usage", "gauge", "share of the cache in use, 0 to 1.", engine.kv_usage),
        _Metric("prompt_tokens_total", "counter", "tokens of prompts read.", counts.prompt_tokens),
        _Metric("generation_tokens_total", "counter", "tokens of answers made.", counts.generated_tokens),
        _Metric("num_preemptions_total", "counter", "sequences that lost their place.", counts.preemptions),
        _Metric("steps_total", "counter", "steps done.", counts.steps),
        _Metric("busy_seconds_total", "counter", "time with a sequence in a step, as stated.", counts.busy_s),
        _Metric("late_seconds_total", "counter", "time lost as this machine was too slow.", counts.late_s),
    ]
