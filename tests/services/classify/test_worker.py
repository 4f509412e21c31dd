"""Sensors, workers and the ledger between them, on a real Redis."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import orjson
import pytest
import redis
from prometheus_client import generate_latest

from feature_store.queues import Delivery, Lag
from feature_store.queues.redis_streams import (
    RedisStreamsQueue,
    RedisStreamsReader,
    RedisStreamsWriter,
)
from feature_store.traffic import FlowMeter
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import FlowSettings
from services.classify.ledger import VerdictLedger
from services.classify.publishing import FlowPublisher, publish_flows
from services.classify.source import Source
from services.classify.stream import ServedEdition, StreamClassifier
from services.classify.worker import FlowWorker, Message, WorkerCounts
from services.classify.worker_metrics import SILENT_S, WorkerMetrics, serve_metrics
from tests.services.classify.conftest import packets_of, verdicts_of

FLOWS = 36


@pytest.fixture
def queue(redis_client: redis.Redis) -> RedisStreamsQueue:
    return RedisStreamsQueue(redis_client, "flows", partitions=3)


def publish(queue: RedisStreamsQueue, capture: Path, *, a_message: int = 5) -> FlowPublisher:
    publisher = FlowPublisher(RedisStreamsWriter(queue), flows_a_message=a_message)
    meter = FlowMeter(FlowSettings(kept_packets=20))
    publish_flows(Source([packets_of(capture)], None, "test"), meter, publisher)
    return publisher


def worker_of(queue: RedisStreamsQueue, served: ServedEdition, **options: object) -> FlowWorker:
    return FlowWorker(
        served,
        RedisStreamsReader(queue, claim_after_s=0.05),
        VerdictLedger(queue.client, "verdicts"),
        drain=True,
        **options,  # type: ignore[arg-type]
    )


def output(client: redis.Redis) -> list[dict]:
    return [orjson.loads(fields[b"verdict"]) for _, fields in client.xrange("verdicts")]


def test_flows_of_a_queue_have_the_verdicts_of_the_capture(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    sent = publish(queue, mixed).counts
    assert (sent.flows, sent.dropped) == (FLOWS, 0)
    assert sent.messages >= FLOWS / 5
    worker = worker_of(queue, served)
    verdicts = list(itertools.chain.from_iterable(worker.run()))
    expected = verdicts_of([packets_of(mixed)], StreamClassifier(served))
    assert said(verdicts) == said([each for each in expected if each.final])
    assert sorted(v["prediction_id"] for v in output(queue.client)) == sorted(
        v.prediction_id for v in verdicts
    )
    assert worker.counts.lag == Lag(0, 0)
    counts = worker.counts.to_json()
    assert counts["flows"] == FLOWS
    assert counts["messages"] == {"done": sent.messages, "rejected": 0}


def said(verdicts: list) -> list[tuple]:
    return sorted(
        (str(v.flow), v.packet, v.time_ns, str(v.reason), v.label, round(v.confidence, 4))
        for v in verdicts
    )


def test_what_a_sensor_sends_twice_has_one_verdict(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)
    publish(queue, mixed, a_message=7)  # a restarted sensor cuts its messages elsewhere
    worker = worker_of(queue, served)
    assert sum(map(len, worker.run())) == FLOWS
    assert worker.counts.duplicates == FLOWS
    assert len({v["prediction_id"] for v in output(queue.client)}) == FLOWS
    publish(queue, mixed)
    assert sum(map(len, worker_of(queue, served).run())) == 0
    assert queue.client.xlen("verdicts") == FLOWS


def test_what_a_dead_worker_had_committed_is_not_doubled(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)

    class Dies(RedisStreamsReader):
        def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
            assert deliveries
            raise KeyboardInterrupt

    dies = FlowWorker(served, Dies(queue), VerdictLedger(queue.client, "verdicts"))
    with pytest.raises(KeyboardInterrupt):
        list(dies.run())
    before = queue.client.xlen("verdicts")
    assert 0 < before < FLOWS
    heir = worker_of(queue, served)
    assert sum(map(len, heir.run())) == FLOWS - before
    assert heir.counts.again > 0
    assert heir.counts.duplicates == before
    assert len({v["prediction_id"] for v in output(queue.client)}) == FLOWS


def test_ids_are_remembered_through_the_next_interval_and_no_longer(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)
    verdicts = list(itertools.chain.from_iterable(worker_of(queue, served).run()))
    (seen,) = queue.client.keys("verdicts:seen:*")
    assert 3600 < queue.client.ttl(seen) <= 7200
    interval = int(seen.decode().rsplit(":", 1)[1])
    ledger = VerdictLedger(queue.client, "verdicts")
    queue.client.rename(seen, f"verdicts:seen:{interval - 1}")
    assert ledger.commit(verdicts) == []
    queue.client.rename(f"verdicts:seen:{interval - 1}", f"verdicts:seen:{interval - 2}")
    assert ledger.commit(verdicts) == verdicts


def test_a_message_that_is_no_flows_is_left_out_and_counted(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    RedisStreamsWriter(queue).write(1, b"junk")
    publish(queue, mixed)
    worker = worker_of(queue, served)
    assert sum(map(len, worker.run())) == FLOWS
    assert worker.counts.messages[Message.REJECTED] == 1
    assert "partition 1 was left out" in caplog.text
    assert worker.counts.lag == Lag(0, 0)


def test_a_model_of_bytes_asks_for_them(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)
    reads_bytes = replace(served, edition=replace(served.edition, tier=Tier.T2))
    with pytest.raises(ValueError, match="--with-bytes"):
        list(worker_of(queue, reads_bytes).run())


def test_a_stopped_worker_finishes_what_it_has_in_hand(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)
    asked = iter([False, True])
    worker = worker_of(queue, served, stop=lambda: next(asked))
    committed = sum(map(len, worker.run()))
    assert 0 < committed < FLOWS
    assert queue.client.xlen("verdicts") == committed
    lag = RedisStreamsReader(queue).lag()
    assert lag.taken == 0
    assert lag.waiting > 0


def test_metrics_tell_lag_outcomes_and_age(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    publish(queue, mixed)
    worker = worker_of(queue, served)
    list(worker.run())
    text = generate_latest(WorkerMetrics(worker.counts).registry()).decode()
    assert 'errata_queue_lag_messages{state="waiting"} 0.0' in text
    assert (
        f'errata_queue_messages_total{{outcome="done"}} {worker.counts.messages[Message.DONE]}'
        in text
    )
    assert 'errata_flow_age_seconds{quantile="0.99"}' in text


def test_a_worker_that_no_longer_comes_round_to_its_queue_is_not_healthy() -> None:
    counts, now = WorkerCounts(turned_at=100.0), [101.0]
    server = serve_metrics(counts, host="127.0.0.1", port=0, monotonic=lambda: now[0])
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert httpx.get(f"{url}/healthz").status_code == 200
        now[0] += SILENT_S
        assert httpx.get(f"{url}/healthz").status_code == 503
        counts.turned_at = now[0]
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert "errata_queue_messages_total" in httpx.get(f"{url}/metrics").text
    finally:
        server.shutdown()
        server.server_close()


def test_a_live_source_drops_what_a_full_queue_does_not_take(
    queue: RedisStreamsQueue, mixed: Path
) -> None:
    now = itertools.count()
    writer = RedisStreamsWriter(queue, max_messages=1)
    publisher = FlowPublisher(
        writer, flows_a_message=4, patience_s=3, monotonic=lambda: next(now), sleep=lambda _: None
    )
    publish_flows(Source([packets_of(mixed)], None, "test"), FlowMeter(), publisher)
    assert publisher.counts.messages == queue.partitions
    assert publisher.counts.dropped == FLOWS - publisher.counts.flows > 0


def test_a_file_waits_for_a_full_queue(
    queue: RedisStreamsQueue, served: ServedEdition, mixed: Path
) -> None:
    worker = worker_of(queue, served)
    waits = []

    def work_meanwhile(seconds: float) -> None:
        waits.append(seconds)
        list(worker.run())

    writer = RedisStreamsWriter(queue, max_messages=1)
    publisher = FlowPublisher(writer, flows_a_message=4, sleep=work_meanwhile)
    publish_flows(Source([packets_of(mixed)], None, "test"), FlowMeter(), publisher)
    list(worker.run())
    assert waits
    assert publisher.counts.dropped == 0
    assert worker.counts.stream.flows == FLOWS


def test_no_flow_waits_long_for_others(queue: RedisStreamsQueue, mixed: Path) -> None:
    now = 100.0
    publisher = FlowPublisher(
        RedisStreamsWriter(queue), flows_a_message=1_000, monotonic=lambda: now
    )
    meter = FlowMeter()
    list(meter.add(packets_of(mixed)))
    for flows in meter.finish():
        publisher.add(flows)
    publisher.tick()
    assert publisher.counts.messages == 0
    now += 1.1
    publisher.tick()
    assert publisher.counts.flows == FLOWS
