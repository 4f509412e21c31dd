"""What the endpoint counts and times, in Prometheus's words."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)


class Telemetry:
    """Metrics of one service process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "errata_requests_total", "Requests", ["route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "errata_request_seconds",
            "Time to answer",
            ["route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.stage = Histogram(
            "errata_stage_seconds",
            "Time of one stage of a recommendation",
            ["stage"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.degraded = Counter(
            "errata_degraded_answers_total",
            "Answers given without a dependency",
            ["reason"],
            registry=self.registry,
        )
        self.feedback = Counter(
            "errata_feedback_total", "Feedback by outcome", ["status"], registry=self.registry
        )
        self.model = Gauge(
            "errata_model_info",
            "The version that serves",
            ["model", "version"],
            registry=self.registry,
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Time one stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage.labels(stage).observe(time.perf_counter() - started)

    def exposition(self) -> bytes:
        """The text format that `/metrics` answers."""
        return generate_latest(self.registry)
