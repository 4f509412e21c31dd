"""What every partitioned queue keeps, on real servers."""

import itertools
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest
import redis

from feature_store.online import connect
from feature_store.queues import (
    Delivery,
    Lag,
    QueueFullError,
    QueueReader,
    QueueUnavailableError,
    QueueWriter,
)
from feature_store.queues.redis_streams import (
    RedisStreamsQueue,
    RedisStreamsReader,
    RedisStreamsWriter,
)
from tests.feature_store.queues.conftest import KafkaBroker

PARTITIONS = 4
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Made:
    """How the queue of a test is opened, again and again."""

    writer: Callable[[], QueueWriter]
    reader: Callable[[], QueueReader]


@pytest.fixture(params=["redis", "kafka"])
def made(request: pytest.FixtureRequest) -> Made:
    name = f"q{uuid.uuid4().hex[:12]}"
    wanted = itertools.count(PARTITIONS)  # the first one's is what it is
    if request.param == "redis":
        client: redis.Redis = request.getfixturevalue("redis_client")

        def streams() -> RedisStreamsQueue:
            return RedisStreamsQueue(client, name, partitions=next(wanted))

        return Made(
            lambda: RedisStreamsWriter(streams()),
            lambda: RedisStreamsReader(streams(), claim_after_s=0.2),
        )
    broker: KafkaBroker = request.getfixturevalue("kafka_broker")
    from feature_store.queues.kafka import KafkaQueue, KafkaReader, KafkaWriter

    def topic() -> KafkaQueue:
        return KafkaQueue(broker.address, name, partitions=next(wanted))

    return Made(lambda: KafkaWriter(topic()), lambda: KafkaReader(topic(), session_s=6))


def take(
    readers: Sequence[QueueReader], n: int, *, acknowledge: bool = True
) -> list[list[Delivery]]:
    """At least `n` messages, by reader."""
    taken: list[list[Delivery]] = [[] for _ in readers]
    deadline = time.monotonic() + PATIENCE_S
    while sum(map(len, taken)) < n:
        assert time.monotonic() < deadline, f"{sum(map(len, taken))} of {n} messages came"
        for mine, reader in zip(taken, readers, strict=True):
            news = reader.read(timeout_s=0.1)
            if acknowledge:
                reader.acknowledge(news)
            mine += news
    return taken


def write(writer: QueueWriter, n: int, first: int = 0) -> list[bytes]:
    payloads = [b"message %d" % number for number in range(first, first + n)]
    for number, payload in enumerate(payloads):
        writer.write(number % PARTITIONS, payload)
    writer.flush()
    return payloads


def test_what_is_written_is_read_once_and_in_the_order_of_its_partition(made: Made) -> None:
    writer, reader = made.writer(), made.reader()
    with closing(writer), closing(reader):
        assert writer.partitions == PARTITIONS
        payloads = write(writer, 40)
        (taken,) = take([reader], 40)
        assert sorted(each.payload for each in taken) == sorted(payloads)
        for partition in range(PARTITIONS):
            mine = [each.payload for each in taken if each.partition == partition]
            assert mine == payloads[partition::PARTITIONS]
        assert all(abs(each.written_ms / 1000 - time.time()) < 60 for each in taken)
        assert reader.read(timeout_s=0.05) == []
        assert reader.lag() == Lag(0, 0)


def test_readers_share_the_work(made: Made) -> None:
    writer, one, other = made.writer(), made.reader(), made.reader()
    with closing(writer), closing(one), closing(other):
        payloads: list[bytes] = []
        first: list[Delivery] = []
        second: list[Delivery] = []
        deadline = time.monotonic() + PATIENCE_S
        while not (first and second):  # a group needs a while to share partitions out
            assert time.monotonic() < deadline
            payloads += write(writer, 40, first=len(payloads))
            some = take([one, other], 40)
            first, second = first + some[0], second + some[1]
        both = [each.payload for each in (*first, *second)]
        assert set(both) == set(payloads)


def test_what_a_reader_leaves_unacknowledged_goes_to_another(made: Made) -> None:
    writer, gone = made.writer(), made.reader()
    with closing(writer):
        payloads = write(writer, 12)
        (some,) = take([gone], 12, acknowledge=False)
        assert gone.lag().total == 12
        # Of each partition in order: Kafka acknowledges up to a position.
        done = [each for each in some if each.partition < 2]
        gone.acknowledge(done)
        assert gone.lag().total == 12 - len(done)
        gone.close()
        heir = made.reader()
        with closing(heir):
            (rest,) = take([heir], 12 - len(done))
            assert {each.payload for each in rest} == set(payloads) - {e.payload for e in done}
            assert heir.lag() == Lag(0, 0)


def test_the_number_of_partitions_is_the_first_ones(made: Made) -> None:
    with closing(made.writer()):
        pass
    with closing(made.writer()) as writer:
        assert writer.partitions == PARTITIONS


def test_redis_memory_is_bounded_by_a_full_partition(redis_client: redis.Redis) -> None:
    queue = RedisStreamsQueue(redis_client, "full", partitions=2)
    writer, reader = RedisStreamsWriter(queue, max_messages=3), RedisStreamsReader(queue)
    for _ in range(3):
        writer.write(0, b"x")
    with pytest.raises(QueueFullError, match="holds 3 messages"):
        writer.write(0, b"x")
    writer.write(1, b"x")
    take([reader], 4)
    writer.write(0, b"x")  # what was acknowledged makes room
    assert redis_client.xlen(queue.streams[0]) == 1


def test_a_reader_goes_on_when_redis_came_back_empty(redis_client: redis.Redis) -> None:
    queue = RedisStreamsQueue(redis_client, "lost", partitions=2)
    reader = RedisStreamsReader(queue)
    redis_client.flushall()
    assert reader.read(timeout_s=0.01) == []
    RedisStreamsWriter(queue).write(1, b"x")
    (taken,) = take([reader], 1)
    assert [each.payload for each in taken] == [b"x"]


def test_a_server_that_is_away_is_named() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(QueueUnavailableError, match="Redis"):
        RedisStreamsQueue(connect(f"redis://127.0.0.1:{port}"), "away", partitions=2)


def test_a_broker_that_dies_is_named(kafka: None) -> None:
    from feature_store.queues.kafka import KafkaQueue

    with KafkaBroker() as broker:
        queue = KafkaQueue(broker.address, "dies", partitions=2)
        assert queue.partitions == 2
    with pytest.raises(QueueUnavailableError, match="Kafka at 127"):
        KafkaQueue(broker.address, "dies", partitions=2, answer_s=1)
