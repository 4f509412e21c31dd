"""What a worker says over HTTP: `/metrics`, and `/healthz` for whoever would restart it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from services.classify.worker import Message, WorkerCounts

# A worker comes round twice a second; a message of thousands of flows takes seconds.
SILENT_S = 60.0


def serve_metrics(
    counts: WorkerCounts, *, host: str, port: int, monotonic: Callable[[], float] = time.monotonic
) -> WSGIServer:
    """Answer on a thread until `shutdown`; `/healthz` is 503 when the worker no longer comes round
    to its queue.

    Raises:
        OSError: the address is taken.
    """
    metrics = make_wsgi_app(WorkerMetrics(counts).registry())

    def answer(environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"] != "/healthz":
            return metrics(environ, start)
        silent_s = monotonic() - counts.turned_at
        status = "200 OK" if silent_s < SILENT_S else "503 Service Unavailable"
        start(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"came round to the queue {silent_s:.1f} s ago\n".encode()]

    server = make_server(host, port, answer, handler_class=_Quiet)
    threading.Thread(target=server.serve_forever, name="errata-metrics", daemon=True).start()
    return server


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line a request."""


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
