"""What the endpoint counts and times, in Prometheus's words."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_LATENCY_BUCKETS_S = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075),
    *(0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
)


class Telemetry:
    """Metrics of one service process, in a registry of its own.

    Attributes:
        tracer: makes spans of stages; None makes none.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tracer: Tracer | None = None
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
        self._stages: dict[str, Histogram] = {}
        self.refused = Counter(
            "errata_refused_requests_total",
            "Requests refused because the service was too busy",
            ["reason"],
            registry=self.registry,
        )
        self.stage_failures = Counter(
            "errata_stage_failures_total",
            "Corrections left out because their stage failed",
            ["stage"],
            registry=self.registry,
        )
        self.correction = Histogram(
            "errata_correction_size",
            "How far a stage moved the scores that it moved, on average; 1 is e-fold odds",
            ["stage"],
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
            registry=self.registry,
        )
        self.predictions_lost = Counter(
            "errata_predictions_lost_total",
            "Predictions that could not be kept for their outcome",
            registry=self.registry,
        )
        self.recommendations = Counter(
            "errata_recommendations_total",
            "Answered recommendations by the version that answered",
            ["catalogue", "version", "arm"],
            registry=self.registry,
        )
        self.answer = Histogram(
            "errata_recommendation_seconds",
            "Time from the request to the answer, by the version that answered",
            ["catalogue", "version"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self.registry,
        )
        self.outcomes = Counter(
            "errata_outcomes_total",
            "Feedback for a prediction, by the version that had served it",
            ["catalogue", "version", "type"],
            registry=self.registry,
        )
        self.batch = Histogram(
            "errata_batch_requests",
            "Requests that were computed together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
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
            "1 for each version that serves",
            ["catalogue", "model", "version", "arm"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

        self.memory_error = Gauge(
            "errata_memory_model_error",
            "Mean error of the model itself on recent outcomes, without the memory",
            ["model", "version"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.drift = Gauge(
            "errata_drift_rises",
            "How often the model's error rose, over the entries that are kept",
            ["model", "version"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )

    def timed(self, stage: str) -> AbstractContextManager[Timing]:
        """Time one stage, and make a span of it where there is a tracer. Requests that are computed
        together share their stages: the spans are under the request that began the batch."""
        series = self._stages.get(stage)
        if series is None:  # looking one up by its label costs more than the observation
            series = self._stages[stage] = self.stage.labels(stage)
        if self.tracer is None:
            return Timing(series)
        return self._traced(stage, self.tracer, series)

    @contextmanager
    def _traced(self, stage: str, tracer: Tracer, series: Histogram) -> Iterator[Timing]:
        with Timing(series) as timing, tracer.start_as_current_span(stage):
            yield timing

    def exposition(self) -> bytes:
        """The text format that `/metrics` answers, of all worker processes together."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            together = CollectorRegistry()
            MultiProcessCollector(together)  # type: ignore[no-untyped-call]
            return generate_latest(together)
        return generate_latest(self.registry)


class Timing:
    """Observes how long a block took; a generator would take as long as what it measures.

    Attributes:
        elsewhere_s: seconds of the block that were spent on other stages, and are not counted.
    """

    __slots__ = ("_series", "_started", "elsewhere_s")

    def __init__(self, series: Histogram) -> None:
        self._series = series
        self.elsewhere_s = 0.0

    def __enter__(self) -> Timing:
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._series.observe(time.perf_counter() - self._started - self.elsewhere_s)
