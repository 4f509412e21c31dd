"""What the endpoint counts, in Prometheus's words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from feature_store.editions.traffic import UNKNOWN
from services.classify.verdict import Verdict

# Confidences are told apart in tenths, as a reliability diagram does.
BINS = 10


class TrafficTelemetry:
    """Metrics of one process, in a registry of its own.

    Calibration is three counters by confidence, because counters of many processes, and over any
    time, may be added up: the expected calibration error is the sum over `bin` of
    |sum of confidences - right ones|, divided by the labelled flows (Naeini et al. 2015). It is of
    the model's own word, before correction: whether its confidence may still be believed.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, says: str, *labels: str) -> Counter:
            return Counter(name, says, labels, registry=self.registry)

        self.listeners = Gauge(
            "errata_verdict_listeners",
            "Open streams",
            registry=self.registry,
            multiprocess_mode="livesum",
        )
        self.error = Gauge(
            "errata_traffic_model_error",
            "Mean error of the model itself on recent labels, without the memory",
            ["model", "version"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.rises = Gauge(
            "errata_traffic_drift_rises",
            "How often the model's error rose, over the entries that are kept",
            ["model", "version"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self.uploads = counter("errata_uploads_total", "Uploads by outcome", "outcome")
        self.labels = counter("errata_labels_total", "Labels by outcome", "outcome")
        self.flows = counter("errata_flows_total", "Final verdicts: known or unknown", "answer")
        self.labelled = counter("errata_labelled_flows_total", "Flows with a label", "bin")
        self.right = counter("errata_labelled_right_total", "Those the model had right", "bin")
        self.confidence = counter(
            "errata_labelled_confidence_total", "Sum of the model's confidences in them", "bin"
        )
        self.correction = Histogram(
            "errata_verdict_correction_size",
            "Share of a final verdict's probability that the memory moved to other classes",
            buckets=(0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
            registry=self.registry,
        )

    def said(self, verdicts: Sequence[Verdict]) -> None:
        """Count final verdicts."""
        for each in verdicts:
            if each.final:
                self.flows.labels("unknown" if each.label == UNKNOWN else "known").inc()
                self.correction.observe(_moved(each))

    def told(self, confidence: float, *, right: bool) -> None:
        """Count a label, by what the model itself had thought."""
        name = f"{min(int(confidence * BINS), BINS - 1) / BINS:.1f}"
        self.labelled.labels(name).inc()
        self.confidence.labels(name).inc(confidence)
        self.right.labels(name).inc(right)


def _moved(verdict: Verdict) -> float:
    """The total variation between what the model said and what was emitted."""
    own = np.zeros_like(verdict.probability)
    own[: len(verdict.own)] = verdict.own
    return float(np.abs(verdict.probability - own).sum() / 2)
