"""Everything that one port answers."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import redis

from errata.kafka_topics import SCHEME, TopicAddress
from errata.labels import with_labels
from errata.queue_messages import QueueMessages
from errata.serving import with_traffic
from errata.tracing import tracer_of
from feature_store.error_memory.remembered import Remembered
from feature_store.error_memory.usage import Usage
from feature_store.online import connect
from feature_store.online.messages import MessageSource, RedisMessages
from feature_store.registry.names import TRAFFIC
from services import dashboard
from services.access import Traced
from services.application import Application
from services.classify.app import create_app as create_traffic
from services.classify.service import ClassifyService
from services.classify.settings import ClassifySettings
from services.memory_telemetry import MemoryTelemetry
from services.readiness import Reference
from services.recommend.app import create_app
from services.recommend.pseudonymous import PathsUnderPseudonym
from services.recommend.service import RecommendService
from services.recommend.settings import ServeSettings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

# Longer than a consumer waits for something new.
_STREAM_TIMEOUT_S = 2.0


def application(
    settings: ServeSettings,
    traffic: ClassifySettings | None = None,
    *,
    labels_stream: str | None = None,
) -> Application:
    """The routes of the API, and behind them the dashboard at `/`; traced where OTEL_* says so.
    `labels_stream`: outcomes also come from this Redis Stream, or `kafka://HOST:PORT/TOPIC`."""
    also = () if traffic is None else (Reference(TRAFFIC, traffic.alias),)
    app = create_app(settings, others=also)
    recommending: RecommendService = app.state.service
    catalogues = [Reference(each.model, each.alias) for each in settings.every_catalogue().values()]
    flows = None if traffic is None else create_traffic(traffic, others=catalogues)
    classifying: ClassifyService | None = None if flows is None else flows.state.classify
    if labels_stream is not None:
        messages = _messages(labels_stream, settings)
        with_labels(app, messages, traffic=flows, pseudonyms=settings.pseudonyms)
    if flows is not None:
        with_traffic(app, flows)

    def remembered() -> list[Remembered]:
        found = recommending.remembered()
        return found if classifying is None else [*found, *classifying.remembered()]

    telemetry, usage = MemoryTelemetry(recommending.telemetry.registry), Usage()

    def look() -> None:
        found = remembered()
        telemetry.show(found)
        with suppress(redis.RedisError):
            for each in found:
                usage.together(each)

    recommending.after_refresh.append(look)
    dashboard.install(app, recommending.registry, remembered, usage)
    if (tracer := tracer_of()) is not None:
        traced(app, tracer)
    if settings.pseudonyms is not None:
        app.before(PathsUnderPseudonym, pseudonyms=settings.pseudonyms)
    return app


def _messages(stream: str, settings: ServeSettings) -> MessageSource:
    if not stream.startswith(SCHEME):
        client = connect(settings.redis_url, timeout_s=_STREAM_TIMEOUT_S)
        # Whoever writes them names users as they are: what is done must not stay.
        return RedisMessages(client, stream, erase=settings.pseudonyms is not None)
    address = TopicAddress.parse(stream)
    from feature_store.queues.kafka import KafkaReader, KafkaWriter

    return QueueMessages(
        address.topic,
        lambda: KafkaReader(address.open()),
        lambda: KafkaWriter(address.open(partitions=1, suffix=".rejected")),
    )


def traced(app: Application, tracer: Tracer) -> None:
    """Have every request and every stage of a recommendation make a span."""
    app.state.service.telemetry.tracer = tracer
    app.before(Traced, tracer=tracer)
