"""Where spans go, as OpenTelemetry's own variables say; nowhere, and at no cost, without them.

pip install 'errata[otel]'
OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 errata serve
OTEL_TRACES_EXPORTER=console errata serve
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Tracer

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


def tracer_of(environment: Mapping[str, str] = os.environ) -> Tracer | None:
    """A tracer whose spans are exported behind the answers, or None where nobody asked for one.

    Raises:
        ValueError: traces are asked for and the extra `otel` is missing, or the exporter is none of
            otlp, console, none.
    """
    named = environment.get("OTEL_TRACES_EXPORTER", "")
    asked = named or ("otlp" if any(environment.get(name) for name in _ENDPOINTS) else "none")
    if asked == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(asked)
    except ImportError as error:
        raise ValueError(
            f"OTEL_* asks for traces, which cannot be made ({error}): pip install 'errata[otel]'"
        ) from error
    service = environment.get("OTEL_SERVICE_NAME", "errata")
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider.get_tracer("errata")


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter: SpanExporter = OTLPSpanExporter()
        return exporter
    raise ValueError(f"OTEL_TRACES_EXPORTER is otlp, console or none, not '{name}'")
