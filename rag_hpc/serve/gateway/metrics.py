"""What a gateway counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

STEP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


class Stats:
    """The figures of what counts by itself, read whenever all are."""

    def __init__(self, name: str, said: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name, self._said, self._read = name, said, read

    def collect(self) -> Iterator[Any]:
        """Yield them as one family."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(self._name, self._said, labels=["name"])
        for name, number in self._read().items():
            family.add_metric([name], number)
        yield family


class Metrics:
    """Counters and histograms of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter("rag_requests", "requests that have ended", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "rag_request_seconds", "from a request to its last byte", ["route"], buckets=STEP_S, registry=self.registry
        )
        self.steps = Histogram(
            "rag_step_seconds", "of an answer's steps", ["step"], buckets=STEP_S, registry=self.registry
        )
        self.in_flight = Gauge("rag_in_flight", "requests that are open", registry=self.registry)
        self.partial = Counter("rag_partial", "searches that not all shards answered", registry=self.registry)
        self.fallbacks = Counter("rag_fallbacks", "answers that no model gave, or not whole", registry=self.registry)
        self.feedback = Counter("rag_feedback", "verdicts of readers", ["rating"], registry=self.registry)

    def count_cache(self, read: Callable[[], Mapping[str, float]]) -> None:
        """Tell the caches' figures, too."""
        self.registry.register(Stats("rag_cache", "what the caches count, and how large they are", read))

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)
