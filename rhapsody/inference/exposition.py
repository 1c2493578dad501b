"""Figures in Prometheus' text format; written by hand, since not every interpreter with a model has its client."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metric(NamedTuple):
    """One figure.

    Attributes:
        name: Without prefix.
        kind: `gauge` or `counter`.
        help: What it is, in words.
        value: Now.
    """

    name: str
    kind: str
    help: str
    value: float


def render(metrics: Iterable[Metric], prefix: str, model: str) -> str:
    """Return figures of a model as text, each name with a prefix."""
    label = model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = []
    for name, kind, text, value in metrics:
        full = f"{prefix}{name}"
        lines.append(f"# HELP {full} {text}")
        lines.append(f"# TYPE {full} {kind}")
        lines.append(f'{full}{{model_name="{label}"}} {value!r}')
    return "\n".join([*lines, ""])
