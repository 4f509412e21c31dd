"""Outcomes from a Kafka topic: as from a Redis Stream, with a real broker."""

import json

import pytest

from tests.errata.outcome_streams import reading
from tests.feature_store.queues.conftest import kafka, kafka_broker  # noqa: F401
from tests.patience import within

eventually = within(40)


@pytest.fixture
def queue(kafka_broker, tmp_path):  # noqa: F811
    from feature_store.queues.kafka import KafkaQueue

    return lambda suffix="": KafkaQueue(
        kafka_broker.address, f"labels-{tmp_path.name}{suffix}", partitions=2
    )


@pytest.fixture
def service(tmp_path, redis_server, redis_client, kafka_broker, queue):  # noqa: F811
    stream = f"kafka://{kafka_broker.address}/{queue().topic}"
    with reading(stream, tmp_path, redis_server, redis_client) as both:
        yield both


def outcome(client, **changes):
    answer = client.post("/v1/recommendations", json={"history": ["film-sea-01"], "k": 3}).json()
    return {
        "user_id": "u",
        "item_id": answer["items"][0]["item_id"],
        "prediction_id": answer["prediction_id"],
    } | changes


def test_outcomes_count_once_and_what_is_not_understood_is_set_aside(service, queue):
    from feature_store.queues.kafka import KafkaReader, KafkaWriter

    client, log = service
    writer = KafkaWriter(queue())
    writer.write(0, b"no json")
    twice = json.dumps(outcome(client, feedback_id="f")).encode()
    for partition in (0, 1):
        writer.write(partition, twice)
    writer.write(1, json.dumps(outcome(client, type="dismiss")).encode())
    writer.flush()
    eventually(lambda: log.position() == 2)
    labels = [float(label) for _, batch in log.entries() for label in batch.labels[:, 0]]
    assert sorted(labels) == [0.0, 1.0]
    apart = KafkaReader(queue(".rejected"), session_s=6)
    found = []
    eventually(lambda: found.extend(apart.read(timeout_s=0.1)) or found)
    apart.close()
    said = json.loads(found[0].payload)
    assert said["message"] == "no json"
    assert said["reason"]
    # Acknowledged: the group has nothing left to read.
    reader = KafkaReader(queue(), session_s=6)
    eventually(lambda: reader.lag().total == 0)
    reader.close()


def test_an_outcome_that_overtook_its_prediction_is_tried_again_and_holds_its_partition(
    kafka_broker,  # noqa: F811
    queue,
):
    from errata.queue_messages import QueueMessages
    from feature_store.queues.kafka import KafkaReader, KafkaWriter

    writer = KafkaWriter(queue())
    for number in range(3):
        writer.write(0, b'{"n": %d}' % number)
    writer.flush()

    def opened():
        return QueueMessages(
            "labels",
            lambda: KafkaReader(queue(), session_s=6),
            lambda: KafkaWriter(queue(".rejected")),
            again_after_s=0.05,
        )

    def read(source, n):
        found = {}
        eventually(
            lambda: found.update((m.id, m) for m in source.read(block_ms=50)) or len(found) >= n
        )
        return [found[name] for name in sorted(found)]

    source = opened()
    first, second, third = read(source, 3)
    source.acknowledge([second])
    assert [m.id for m in read(source, 2)] == [first.id, third.id]  # and not the second
    source.close()
    source = opened()  # nothing was acknowledged at the broker: all come again
    assert read(source, 3) == [first, second, third]
    source.acknowledge([first, second])
    source.close()
    source = opened()
    assert read(source, 1) == [third]
    source.close()


def test_a_wrong_address_is_told_at_once():
    from errata.kafka_topics import TopicAddress

    with pytest.raises(ValueError, match="kafka://HOST:PORT/TOPIC"):
        TopicAddress.parse("kafka://host:9092")
