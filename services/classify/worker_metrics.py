"""What a worker's `/metrics` says."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.classify.worker import Message, WorkerCounts


class WorkerMetrics:
    """A `prometheus_client` collector over a worker's counts."""

    def __init__(self, counts: WorkerCounts) -> None:
        self._counts = counts

    def describe(self) -> list[Metric]:
        """Nothing is collected for being registered."""
        return []

    def registry(self) -> CollectorRegistry:
        """One that holds only this."""
        registry = CollectorRegistry()
        registry.register(self)
        return registry

    def collect(self) -> Iterator[Metric]:
        """For a `prometheus_client` registry."""
        counts = self._counts
        if counts.lag is not None:
            lag = GaugeMetricFamily(
                "errata_queue_lag_messages", "Messages not acknowledged", labels=["state"]
            )
            lag.add_metric(["waiting"], counts.lag.waiting)
            lag.add_metric(["taken"], counts.lag.taken)
            yield lag
        messages = CounterMetricFamily(
            "errata_queue_messages", "Messages by outcome", labels=["outcome"]
        )
        for outcome in Message:
            messages.add_metric([str(outcome)], counts.messages[outcome])
        yield messages
        yield CounterMetricFamily(
            "errata_queue_delivered_again", "Messages that came again", counts.again
        )
        yield CounterMetricFamily(
            "errata_flows_duplicate", "Flows that had a verdict", counts.duplicates
        )
        labels = CounterMetricFamily("errata_flows_classified", "By label", labels=["label"])
        for label, count in list(counts.stream.labels.items()):
            labels.add_metric([label], count)
        yield labels
        age = GaugeMetricFamily(
            "errata_flow_age_seconds",
            "From a flow's message to its verdict, of the newest",
            labels=["quantile"],
        )
        for quantile in (0.5, 0.99):
            age.add_metric([str(quantile)], counts.stream.latency_ms(quantile) / 1e3)
        yield age
