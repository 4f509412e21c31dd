"""The queue on Kafka: a topic, and a consumer group that shares its partitions.

A partition has one reader at a time, and is read in order. The broker keeps messages as long as the
topic's retention says, acknowledged or not. Needs the extra `kafka`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from feature_store.queues.queue import Delivery, Lag, QueueFullError, QueueUnavailableError

log = logging.getLogger(__name__)
# librdkafka writes to stderr by itself otherwise.
_LIBRARY = logging.getLogger("errata.kafka")

GROUP = "errata"
MESSAGES_A_READ = 8
SESSION_S = 10.0
ANSWER_S = 10.0
MESSAGE_BYTES = 4 << 20
IN_FLIGHT = 1_000  # messages that wait in the writer

Settings = dict[str, Any]


class KafkaQueue:
    """Address of one topic.

    Args:
        brokers: `HOST:PORT`, several with commas.
        settings: more of librdkafka's own, as `security.protocol`.
    """

    def __init__(
        self,
        brokers: str,
        topic: str,
        *,
        partitions: int,
        settings: Settings | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        """Creates the topic with so many partitions, or takes it as it is.

        Raises:
            QueueUnavailableError: no broker answers, or it refuses.
        """
        self.topic = topic
        self.settings: Settings = {"bootstrap.servers": brokers, **(settings or {})}
        admin = AdminClient(self.settings, logger=_LIBRARY)
        try:
            # Asking for one topic may create it, with the broker's own number of partitions.
            if topic not in admin.list_topics(timeout=answer_s).topics:
                new = NewTopic(topic, num_partitions=partitions)
                _created(admin.create_topics([new])[topic], answer_s)
            self.partitions = _partitions(admin, topic, answer_s)
        except KafkaException as error:
            raise _unavailable(brokers, error) from error


def _created(answer: Any, answer_s: float) -> None:
    try:
        answer.result(answer_s)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # another was faster
            raise


def _partitions(admin: AdminClient, topic: str, answer_s: float) -> int:
    deadline = time.monotonic() + answer_s
    while True:
        found = admin.list_topics(topic, timeout=answer_s).topics[topic]
        if found.partitions:
            return len(found.partitions)
        if time.monotonic() > deadline:
            raise KafkaException(found.error or KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))


class KafkaWriter:
    """See `QueueWriter`; the broker's answers are waited for by `flush`."""

    def __init__(self, queue: KafkaQueue, *, in_flight: int = IN_FLIGHT) -> None:
        self.partitions = queue.partitions
        self._topic = queue.topic
        self._failed: KafkaError | None = None
        self._producer = Producer(
            queue.settings
            | {
                "enable.idempotence": True,  # what is sent again is not written again
                "compression.type": "none",  # the payload is compressed
                "message.max.bytes": MESSAGE_BYTES,
                "queue.buffering.max.messages": in_flight,
                "linger.ms": 5,
            },
            logger=_LIBRARY,
        )

    def write(self, partition: int, payload: bytes) -> None:
        """See `QueueWriter`. A failure of an earlier message is told by a later call."""
        self._producer.poll(0)
        self._check()
        try:
            self._producer.produce(
                self._topic, payload, partition=partition, on_delivery=self._answered
            )
        except BufferError:
            raise QueueFullError("the broker does not keep up with this writer") from None
        except KafkaException as error:
            raise _unavailable(self._topic, error) from error

    def flush(self) -> None:
        """See `QueueWriter`."""
        left = self._producer.flush(ANSWER_S)
        self._check()
        if left:
            raise QueueUnavailableError(f"{left} messages were not taken by the broker in time")

    def close(self) -> None:
        """See `QueueWriter`."""
        self.flush()

    def _answered(self, error: KafkaError | None, _: Message) -> None:
        self._failed = error or self._failed

    def _check(self) -> None:
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise QueueUnavailableError(f"the broker did not take a message: {failed.str()}")


class KafkaReader:
    """See `QueueReader`."""

    def __init__(
        self,
        queue: KafkaQueue,
        *,
        session_s: float = SESSION_S,
        messages: int = MESSAGES_A_READ,
    ) -> None:
        """A reader that is silent for `session_s` loses its partitions to the others."""
        self._topic = queue.topic
        self._partitions = queue.partitions
        self._messages = messages
        self._consumer = Consumer(
            queue.settings
            | {
                # A topic's own: readers of others would take part in every rebalance.
                "group.id": f"{GROUP}-{queue.topic}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "session.timeout.ms": round(session_s * 1000),
                "heartbeat.interval.ms": round(session_s * 1000 / 4),
                # What the library fetches ahead, of all partitions.
                "queued.max.messages.kbytes": 16 << 10,
                "fetch.message.max.bytes": MESSAGE_BYTES,
            },
            logger=_LIBRARY,
        )
        self._consumer.subscribe([queue.topic])

    def read(self, *, timeout_s: float) -> list[Delivery]:
        """See `QueueReader`."""
        try:
            messages = self._consumer.consume(self._messages, timeout=timeout_s)
        except KafkaException as error:
            raise _unavailable(self._topic, error) from error
        found = []
        for message in messages:
            problem = message.error()
            if problem is None:
                found.append(_delivery(message))
            elif problem.fatal():
                raise QueueUnavailableError(f"the consumer cannot go on: {problem.str()}")
            else:
                log.info("kafka: %s", problem.str())
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `QueueReader`. Of a partition that went to another meanwhile nothing is committed."""
        ends: dict[int, int] = {}
        for each in deliveries:
            ends[each.partition] = max(ends.get(each.partition, 0), int(each.position) + 1)
        if not ends:
            return
        offsets = [TopicPartition(self._topic, each, end) for each, end in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in _TAKEN_AWAY:
                log.info("kafka: %s; the messages come again", error.args[0].str())
                return
            raise _unavailable(self._topic, error) from error

    def lag(self) -> Lag:
        """See `QueueReader`: it asks the broker about each partition that is another's."""
        try:
            mine = {each.partition for each in self._consumer.assignment()}
            places = [TopicPartition(self._topic, each) for each in range(self._partitions)]
            waiting = 0
            for place in self._consumer.committed(places, timeout=ANSWER_S):
                low, high = self._bounds(place, mine)
                waiting += max(high - (place.offset if place.offset >= 0 else low), 0)
        except KafkaException as error:
            raise _unavailable(self._topic, error) from error
        return Lag(waiting=waiting, taken=0)

    def close(self) -> None:
        """See `QueueReader`."""
        self._consumer.close()

    def _bounds(self, place: TopicPartition, mine: set[int]) -> tuple[int, int]:
        """The first offset of a partition and the one behind its last."""
        if place.partition in mine:
            low, high = self._consumer.get_watermark_offsets(place, cached=True)  # the last fetch's
            if high >= 0:
                return max(low, 0), high
        low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_S)
        return low, high


_TAKEN_AWAY = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError._ASSIGNMENT_LOST,
)


def _delivery(message: Message) -> Delivery:
    _, written_ms = message.timestamp()
    partition, offset, payload = message.partition(), message.offset(), message.value()
    assert partition is not None
    assert offset is not None
    return Delivery(partition, str(offset), payload or b"", written_ms)


def _unavailable(where: str, error: KafkaException) -> QueueUnavailableError:
    return QueueUnavailableError(f"Kafka at {where} does not take part: {error.args[0].str()}")
