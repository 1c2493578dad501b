"""What a gateway tells Prometheus."""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from rhapsody.inference.replica import ReplicaState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.metrics_core import Metric

    from rhapsody.inference.request import Journey
    from rhapsody.inference.router import Router

_ROUTER_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 1.0)
_FIRST_BYTE_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counts requests, in a registry of its own."""

    def __init__(self, router: Router) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "rhapsody_gateway_requests", "Requests that have ended.", ("model", "replica", "outcome"),
            registry=self._registry,
        )  # fmt: skip
        self._router_s = Histogram(
            "rhapsody_gateway_router_seconds", "Spent by the router itself, per request that was answered.", ("model",),
            buckets=_ROUTER_S, registry=self._registry,
        )  # fmt: skip
        self._first_byte_s = Histogram(
            "rhapsody_gateway_first_byte_seconds", "Until the first byte of an answer; not streamed, all of it.",
            ("model",), buckets=_FIRST_BYTE_S, registry=self._registry,
        )  # fmt: skip
        self._registry.register(_RouterState(router))

    def answered(self, model: str, journey: Journey) -> None:
        """Count a request that was answered."""
        self.ended(model, "answered", journey.replica)
        self.began(model, journey)

    def began(self, model: str, journey: Journey) -> None:
        """Count how long the beginning of an answer took."""
        self._router_s.labels(model).observe(journey.router_s)
        self._first_byte_s.labels(model).observe(journey.first_byte_s)

    def ended(self, model: str, outcome: str, replica: str = "") -> None:
        """Count a request.

        Args:
            model: That a replica has; empty for others, of which there may be any number.
            outcome: `answered`, `refused`, `failed`, `broken_off`, `cancelled`, `unknown_model` or `invalid`.
            replica: Who answered; empty if nobody.
        """
        self._requests.labels(model, replica, outcome).inc()

    def text(self) -> bytes:
        """Return all figures in Prometheus' format."""
        return generate_latest(self._registry)


class _RouterState(Collector):
    """Reads a router when it is asked."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def collect(self) -> Iterator[Metric]:
        """Yield gauges of replicas and queues."""
        labels = ("model", "replica")
        in_flight = GaugeMetricFamily("rhapsody_gateway_in_flight", "Requests that a replica has now.", labels=labels)
        tokens = GaugeMetricFamily(
            "rhapsody_gateway_tokens_in_flight", "Their tokens, expected ones too.", labels=labels
        )
        ejections = CounterMetricFamily("rhapsody_gateway_ejections", "How often it was ejected.", labels=labels)
        states: Tally[tuple[str, str]] = Tally()
        for uid, member in self._router.replicas.items():
            of = (member.replica.model, uid)
            in_flight.add_metric(of, member.load.requests)
            tokens.add_metric(of, member.load.tokens)
            ejections.add_metric(of, member.breaker.ejections)
            states[member.replica.model, member.replica.state] += 1
        yield from (in_flight, tokens, ejections, self._replicas(states), self._queues())

    def _replicas(self, states: Tally[tuple[str, str]]) -> GaugeMetricFamily:
        found = GaugeMetricFamily("rhapsody_gateway_replicas", "Replicas by state.", labels=("model", "state"))
        for model in self._router.models:
            for state in (ReplicaState.READY, ReplicaState.EJECTED, ReplicaState.DRAINING):
                found.add_metric((model, state), states[model, state])
        return found

    def _queues(self) -> GaugeMetricFamily:
        queues = GaugeMetricFamily("rhapsody_gateway_queue_length", "Requests that wait for room.", labels=("model",))
        for model, count in self._router.waiting.items():
            queues.add_metric((model,), count)
        return queues
