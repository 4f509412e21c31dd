"""Spans of requests and stages, as OpenTelemetry's variables ask for them."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from errata.application import application, traced
from errata.tracing import tracer_of
from feature_store.registry import Registry
from services.recommend.settings import Limits, ServeSettings
from tests.services.recommend.conftest import publish

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra `otel`")
TRACE = "0af7651916cd43dd8448eb211c80319c"


def test_a_request_and_its_stages_are_spans_of_the_callers_trace(
    tmp_path: Path, redis_server, redis_client
) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept = InMemorySpanExporter()
    provider = trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    publish(Registry(tmp_path / "registry"), tmp_path / "staging")
    app = application(
        ServeSettings(
            registry=str(tmp_path / "registry"),
            redis_url=redis_server.url,
            offline=tmp_path / "offline",
            device="cpu",
            limits=Limits(deadline_ms=20_000),
        )
    )
    traced(app, provider.get_tracer("test"))
    with TestClient(app) as client:
        caller = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        body = {"user_id": "u", "k": 3}
        assert client.post("/v1/recommendations", json=body, headers=caller).is_success
    spans = {span.name: span for span in kept.get_finished_spans()}
    request = next(span for name, span in spans.items() if name.startswith("POST"))
    assert request.attributes["http.response.status_code"] == 200
    assert f"{request.context.trace_id:032x}" == TRACE
    for stage in ("parse", "user", "tower", "search", "memory", "rank"):
        assert spans[stage].context.trace_id == request.context.trace_id, stage


def test_nobody_who_did_not_ask_pays() -> None:
    assert tracer_of({}) is None
    assert tracer_of({"OTEL_TRACES_EXPORTER": "none"}) is None
    asked = {"OTEL_TRACES_EXPORTER": "console"}
    assert tracer_of(asked | {"OTEL_SDK_DISABLED": "true"}) is None
    assert tracer_of(asked) is not None
    with pytest.raises(ValueError, match="otlp, console or none"):
        tracer_of({"OTEL_TRACES_EXPORTER": "zipkin"})
